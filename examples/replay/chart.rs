//! Line charts as small SVGs, readable on a light and on a dark page.
//!
//! A picture is a grid of panels under one title and one legend. Values are drawn on a logarithmic axis, since what is
//! compared here differs by powers of ten.

use std::fmt::{self, Display, Formatter};
use std::ops::RangeInclusive;

/// Left, top, right, bottom: room for the labels of a panel.
const MARGIN: (f64, f64, f64, f64) = (54.0, 30.0, 14.0, 42.0);
const TITLE: f64 = 30.0;
const LEGEND_ROW: f64 = 20.0;

/// Chosen to be readable on white and on near black; the dashes tell them apart where colours do not.
const STROKES: [(&str, &str); 4] =
    [("#2f81f7", "none"), ("#d9730d", "7 3"), ("#a259d9", "2 3"), ("#1a9e77", "9 3 2 3")];

/// What is not data has a grey that can be read on both; who looks at it in the dark, and says so, gets a lighter one.
const STYLE: &str = "<style>text{font:12px sans-serif;fill:#6e7781}.title{font-size:15px;font-weight:600}\
    .panel{font-weight:600}.grid{stroke:#8c959f;stroke-opacity:.35}.line{fill:none;stroke-width:2}\
    @media(prefers-color-scheme:dark){text{fill:#b1bac4}}</style>";

pub(crate) struct Picture {
    pub(crate) title: String,
    /// Width and height of a panel.
    pub(crate) size: (f64, f64),
    /// How many panels stand side by side.
    pub(crate) columns: usize,
    /// Do all panels have the same range of values?
    pub(crate) same_axis: bool,
    /// The names of the series, in the order of their colours.
    pub(crate) legend: Vec<String>,
    pub(crate) panels: Vec<Panel>,
}

pub(crate) struct Panel {
    pub(crate) title: String,
    /// Below the axis.
    pub(crate) x_label: String,
    /// Where on the axis, from 0 to 1, and what is written there.
    pub(crate) x_ticks: Vec<(f64, String)>,
    /// How a value is written.
    pub(crate) unit: fn(f64) -> String,
    /// For each name of the legend: where on the axis, and the value, which is positive.
    pub(crate) series: Vec<Vec<(f64, f64)>>,
}

impl Display for Picture {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let columns = self.columns.min(self.panels.len()).max(1);
        let (width, legend) = (columns as f64 * self.size.0, self.legend(columns));
        let head = TITLE + legend.last().map_or(0.0, |entry| entry.y + LEGEND_ROW);
        let height = head + self.panels.len().div_ceil(columns) as f64 * self.size.1;
        writeln!(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">")?;
        writeln!(f, "<title>{}</title>\n{STYLE}", Escaped(&self.title))?;
        writeln!(f, "<text class=\"title\" x=\"12\" y=\"20\">{}</text>", Escaped(&self.title))?;
        legend.iter().try_for_each(|entry| entry.fmt(f))?;
        for (index, panel) in self.panels.iter().enumerate() {
            let (x, y) = ((index % columns) as f64 * self.size.0, head + (index / columns) as f64 * self.size.1);
            writeln!(f, "<g transform=\"translate({x} {y})\">")?;
            let panels = if self.same_axis { &self.panels[..] } else { std::slice::from_ref(panel) };
            panel.draw(f, &Field { size: self.size, decades: decades(panels) })?;
            writeln!(f, "</g>")?;
        }
        writeln!(f, "</svg>")
    }
}

impl Picture {
    /// The names side by side, in as many rows as it takes.
    fn legend(&self, columns: usize) -> Vec<Entry<'_>> {
        let (mut x, mut y) = (12.0, 0.0);
        let mut entries = Vec::new();
        for (name, stroke) in self.legend.iter().zip(STROKES).filter(|(name, _)| !name.is_empty()) {
            // About as wide as the letters are on average.
            let width = 56.0 + 6.4 * name.chars().count() as f64;
            if x + width > columns as f64 * self.size.0 && x > 12.0 {
                (x, y) = (12.0, y + LEGEND_ROW);
            }
            entries.push(Entry { name, stroke, x, y });
            x += width;
        }
        entries
    }
}

/// A name of the legend, and where it stands.
struct Entry<'a> {
    name: &'a str,
    stroke: (&'static str, &'static str),
    x: f64,
    y: f64,
}

impl Display for Entry<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Entry { name, stroke: (colour, dash), x, y } = self;
        let (line, text) = (y + TITLE + 8.0, y + TITLE + 12.0);
        write!(f, "<path class=\"line\" stroke=\"{colour}\" stroke-dasharray=\"{dash}\" d=\"M{x} {line}h26\"/>")?;
        writeln!(f, "<text x=\"{}\" y=\"{text}\">{}</text>", x + 32.0, Escaped(name))
    }
}

impl Panel {
    fn draw(&self, f: &mut Formatter<'_>, field: &Field) -> fmt::Result {
        writeln!(f, "<text class=\"panel\" x=\"{}\" y=\"18\">{}</text>", field.left(), Escaped(&self.title))?;
        self.axes(f, field)?;
        for (points, stroke) in self.series.iter().zip(STROKES) {
            let points: Vec<_> = points.iter().map(|&(x, value)| (field.x(x), field.y(value.log10()))).collect();
            line(f, &points, stroke)?;
        }
        Ok(())
    }

    fn axes(&self, f: &mut Formatter<'_>, field: &Field) -> fmt::Result {
        let (left, right, bottom) = (field.left(), field.right(), field.bottom());
        for decade in field.decades.clone() {
            let (y, label) = (field.y(f64::from(decade)), (self.unit)(10_f64.powi(decade)));
            writeln!(f, "<path class=\"grid\" d=\"M{left} {y:.1}H{right}\"/>")?;
            writeln!(f, "<text text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{label}</text>", left - 6.0, y + 4.0)?;
        }
        for (x, label) in &self.x_ticks {
            let x = field.x(*x);
            writeln!(f, "<path class=\"grid\" d=\"M{x:.1} {}V{bottom}\"/>", MARGIN.1)?;
            writeln!(f, "<text text-anchor=\"middle\" x=\"{x:.1}\" y=\"{}\">{label}</text>", bottom + 16.0)?;
        }
        let (middle, below, label) = ((left + right) / 2.0, bottom + 34.0, Escaped(&self.x_label));
        writeln!(f, "<text text-anchor=\"middle\" x=\"{middle}\" y=\"{below}\">{label}</text>")
    }
}

/// The powers of ten between which all values are; two at least, so that small differences stay small.
fn decades(panels: &[Panel]) -> RangeInclusive<i32> {
    let values = || panels.iter().flat_map(|panel| &panel.series).flatten().map(|&(_, value)| value.log10());
    let lowest = values().fold(f64::INFINITY, f64::min).floor();
    let highest = values().fold(f64::NEG_INFINITY, f64::max).ceil();
    if lowest.is_finite() { lowest as i32..=(highest as i32).max(lowest as i32 + 2) } else { 0..=2 }
}

/// Where values lie in a panel.
struct Field {
    size: (f64, f64),
    decades: RangeInclusive<i32>,
}

impl Field {
    fn left(&self) -> f64 {
        MARGIN.0
    }

    fn right(&self) -> f64 {
        self.size.0 - MARGIN.2
    }

    fn bottom(&self) -> f64 {
        self.size.1 - MARGIN.3
    }

    fn x(&self, part: f64) -> f64 {
        self.left() + 14.0 + part * (self.right() - self.left() - 28.0)
    }

    fn y(&self, exponent: f64) -> f64 {
        let (lowest, highest) = (f64::from(*self.decades.start()), f64::from(*self.decades.end()));
        self.bottom() - (exponent - lowest) / (highest - lowest) * (self.bottom() - MARGIN.1)
    }
}

/// Draws one line, with a dot for each point where there are only a few.
fn line(f: &mut Formatter<'_>, points: &[(f64, f64)], (colour, dash): (&str, &str)) -> fmt::Result {
    write!(f, "<path class=\"line\" stroke=\"{colour}\" stroke-dasharray=\"{dash}\" d=\"")?;
    for (index, (x, y)) in points.iter().enumerate() {
        write!(f, "{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' })?;
    }
    writeln!(f, "\"/>")?;
    for (x, y) in points.iter().filter(|_| points.len() < 8) {
        writeln!(f, "<circle fill=\"{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>")?;
    }
    Ok(())
}

/// A time given in nanoseconds.
pub(crate) fn time(nanos: f64) -> String {
    let (number, unit) = match nanos {
        ..1e3 => (nanos, "ns"),
        1e3..1e6 => (nanos / 1e3, "us"),
        1e6..1e9 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    format!("{number} {unit}")
}

/// Text as XML has it.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            char => write!(f, "{char}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(series: Vec<Vec<(f64, f64)>>) -> Panel {
        Panel { title: "a < b".to_owned(), x_label: String::new(), x_ticks: Vec::new(), unit: time, series }
    }

    #[test]
    fn the_axis_ends_at_powers_of_ten() {
        let wide = panel(vec![vec![(0.0, 25.0)], vec![(1.0, 3e6)]]);
        let narrow = panel(vec![vec![(0.0, 1.0)]]);
        assert_eq!(decades(std::slice::from_ref(&narrow)), 0..=2, "one value has room, too");
        assert_eq!(decades(&[panel(vec![vec![], vec![]])]), 0..=2);
        assert_eq!(decades(&[wide, narrow]), 0..=7);
    }

    #[test]
    fn a_picture_holds_its_panels_lines_and_names() {
        let panels = vec![panel(vec![vec![(0.0, 10.0), (1.0, 1e4)]]), panel(vec![])];
        let (title, legend) = ("R & D".to_owned(), vec!["ours".to_owned()]);
        let picture = Picture { title, size: (300.0, 200.0), columns: 3, same_axis: true, legend, panels };
        let svg = picture.to_string();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("viewBox=\"0 0 600 250\""), "two panels side by side");
        assert!(svg.contains("<title>R &amp; D</title>") && svg.contains(">a &lt; b</text>") && svg.contains(">ours<"));
        assert_eq!((svg.matches("<circle").count(), svg.matches("NaN").count()), (2, 0));
        assert!(svg.contains(">10 ns<") && svg.contains(">10 us<"));
    }
}
