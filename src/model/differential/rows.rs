//! What we do otherwise than the kernel.

/// Where we differ from the kernel on purpose: the rows of the design's table that one thread can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    /// "empty range": `[s, s)` hits nothing here.
    EmptyRange,
    /// "range at the last address": it is covered, also by `..` and by the release.
    LastAddress,
    /// "overlap of several subscriptions": those with one start are called in the order of their ends.
    Ties,
    /// "start on a space nobody subscribed to": it raises no counter that could keep a newcomer waiting.
    StartThatHitsNobody,
    /// "reader after its own invalidation ended, others active": it does not wait.
    OwnHasEnded,
    /// "insert during an invalidation": at once, called back, and waiting for what overlaps only.
    InsertDuring,
    /// "remove during an invalidation": at once.
    RemoveDuring,
    /// "refused by a whole-space notifier": both sides are undone, and nobody else is asked.
    RefusedByNotifier,
    /// "order": notifiers hear the end in the reverse order of the starts.
    EndOrder,
    /// "release": once, and it turns readers away.
    Release,
}

/// All of them.
pub(crate) const ROWS: [Row; 10] = [
    Row::EmptyRange,
    Row::LastAddress,
    Row::Ties,
    Row::StartThatHitsNobody,
    Row::OwnHasEnded,
    Row::InsertDuring,
    Row::RemoveDuring,
    Row::RefusedByNotifier,
    Row::EndOrder,
    Row::Release,
];
