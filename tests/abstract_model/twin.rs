//! Protocols that are wrong in one place each. All of them must be refuted, or the model sees nothing.

/// See the variants: each says what is done instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Twin {
    // ---- begin
    /// Begin does not wait for the end of `by`.
    NoWaitForBy,
    /// Begin does not wait for the cells of `also`.
    NoWaitForAlso,
    /// Begin does not wait for what the subscription was born into.
    NoWaitForBirths,
    /// Begin loads `by` before the `seq` that it is to belong to.
    ByIsLoadedBeforeSeq,
    /// Begin declares the present `seq` settled, not the one it has waited for.
    SettlesThePresentSeq,
    /// Retry looks before it takes the mirror lock.
    RetryOutsideTheLock,

    // ---- callback
    /// The callback drops the copy and forgets `set_seq`.
    NoSetSeq,
    /// `set_seq` does not push the invalidation that it overwrites to `also`.
    NothingPushed,
    /// `set_seq` pushes to the first cell of `also`, whether what it names has ended or not.
    CellReusedTooEarly,
    /// `set_seq` stores `seq` before `by`.
    ByIsStoredAfterSeq,

    // ---- start and end
    /// Start searches before its slot is ACTIVE.
    SearchesBeforeActive,
    /// Start returns after the first batch.
    OneBatchOnly,
    /// A slot keeps its generation.
    GenerationIsKept,
    /// The batch calls those too that are marked as removed.
    RemovedIsIgnored,
    /// The batch looks for marks before it has written `current`.
    RemovedIsReadBeforeCurrent,
    /// The batch lets go and wakes nobody.
    NoWakeUpAfterABatch,
    /// End is a load and a store.
    EndIsNoReadModifyWrite,
    /// Whoever wakes does not take the lock.
    WakesWithoutTheLock,

    // ---- subscribe
    /// Subscribe looks into the slots before it publishes.
    ScansBeforePublishing,
    /// Births are all that is active, whether it overlaps or not.
    BirthsThatDoNotOverlap,
    /// Subscribe declares the present `seq` settled, not the one of a birth.
    BirthSettlesThePresentSeq,
    /// Subscribe declares the birth settled, whatever it was born into.
    BirthIsAlwaysSettled,

    // ---- unsubscribe
    /// Unsubscribe does not look into the slots.
    NoWaitInUnsubscribe,
    /// Unsubscribe looks into the slots before it marks the subscription.
    MarksAfterWaiting,
}
