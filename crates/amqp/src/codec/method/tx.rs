//! Class `tx` (§1.9).

methods! { 90;
    /// Makes the channel transactional.
    Select[] = 10 {}
    /// Done.
    SelectOk[] = 11 {}
    /// Makes all since the last commit or rollback take effect.
    Commit[] = 20 {}
    /// Done.
    CommitOk[] = 21 {}
    /// Forgets all since the last commit or rollback.
    Rollback[] = 30 {}
    /// Done.
    RollbackOk[] = 31 {}
}
