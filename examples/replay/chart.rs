pub(crate) fn of_waits(_: &crate::trace::Trace, _: &[(crate::options::Kind, crate::tally::Times)]) -> String {
    String::new()
}
