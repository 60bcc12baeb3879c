//! The porting guide has a row for every name of the kernel's header.

const GUIDE: &str = include_str!("../../src/porting.md");

/// `include/linux/mmu_notifier.h` of Linux 6.12, and what newer kernels have added.
const NAMES: &str = "
    mmu_notifier_subscriptions mmu_notifier mmu_notifier_ops mmu_notifier_range mmu_interval_notifier
    mmu_interval_notifier_ops mmu_interval_notifier_finish
    MMU_NOTIFY_UNMAP MMU_NOTIFY_CLEAR MMU_NOTIFY_PROTECTION_VMA MMU_NOTIFY_PROTECTION_PAGE MMU_NOTIFY_SOFT_DIRTY
    MMU_NOTIFY_RELEASE MMU_NOTIFY_MIGRATE MMU_NOTIFY_EXCLUSIVE MMU_NOTIFIER_RANGE_BLOCKABLE
    release clear_flush_young clear_young test_young invalidate_range_start invalidate_range_end
    arch_invalidate_secondary_tlbs alloc_notifier free_notifier invalidate invalidate_start invalidate_finish
    mm_has_notifiers mmu_notifier_get_locked mmu_notifier_get mmu_notifier_put mmu_notifier_synchronize
    mmu_notifier_register __mmu_notifier_register mmu_notifier_unregister
    mmu_interval_notifier_insert mmu_interval_notifier_insert_locked mmu_interval_notifier_remove
    mmu_interval_read_begin mmu_interval_set_seq mmu_interval_read_retry mmu_interval_check_retry
    __mmu_notifier_subscriptions_destroy __mmu_notifier_release __mmu_notifier_clear_flush_young
    __mmu_notifier_clear_young __mmu_notifier_test_young __mmu_notifier_invalidate_range_start
    __mmu_notifier_invalidate_range_end __mmu_notifier_arch_invalidate_secondary_tlbs
    mmu_notifier_range_blockable mmu_notifier_release mmu_notifier_clear_flush_young mmu_notifier_clear_young
    mmu_notifier_test_young mmu_notifier_invalidate_range_start mmu_notifier_invalidate_range_start_nonblock
    mmu_notifier_invalidate_range_end mmu_notifier_arch_invalidate_secondary_tlbs
    mmu_notifier_subscriptions_init mmu_notifier_subscriptions_destroy
    _mmu_notifier_range_init mmu_notifier_range_init mmu_notifier_range_init_owner
    ptep_clear_flush_young_notify pmdp_clear_flush_young_notify ptep_clear_young_notify pmdp_clear_young_notify";

#[test]
fn the_porting_guide_has_them_all() {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let rows: Vec<&str> = GUIDE.lines().filter(|line| line.starts_with('|')).collect();
    let first_cells = rows.iter().map(|row| row.split(" | ").next().unwrap_or_default());
    let words: std::collections::BTreeSet<&str> = first_cells.flat_map(|cell| cell.split(|c| !is_part(c))).collect();
    let missing: Vec<&str> = NAMES.split_whitespace().filter(|name| !words.contains(name)).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
    let empty: Vec<_> =
        rows.iter().filter(|row| row.split('|').skip(1).take(3).any(|cell| cell.trim().is_empty())).collect();
    assert!(empty.is_empty(), "rows with an empty cell: {empty:#?}");
}
