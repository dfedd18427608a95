//! Facts for tests.

use super::facts::{About, Chain, ChainOfPeriod, Facts, Findings, Listed, Section};

fn none<T>() -> Section<Listed<T>> {
    Section::Facts(Listed {
        total: 0,
        shown: Vec::new(),
    })
}

/// Of a database in which nothing has happened.
pub fn quiet() -> Facts {
    Facts {
        format: super::facts::FORMAT.into(),
        program: "0".into(),
        about: About {
            database: "app".into(),
            role: "auditor".into(),
            is_standby: false,
            read_at: "2026-11-29T12:00:00.5+00:00".into(),
            server: "15".into(),
            extension: "0".into(),
            cluster: String::new(),
        },
        since: "2026-11-01T00:00:00Z".into(),
        until: "2026-12-01T00:00:00Z".into(),
        exceptions: Vec::new(),
        chain: Section::Facts(Chain {
            ok: true,
            events: 3,
            head_seq: Some(3),
            head_hash: Some("ab".repeat(32)),
            first_bad: None,
            problem: None,
            not_recorded: 0,
            bad: None,
        }),
        chain_of_period: Section::Facts(ChainOfPeriod {
            records: 0,
            first: None,
            last: None,
        }),
        anchored: Section::Facts(super::facts::Anchored {
            seq: 0,
            at: None,
            hash: None,
            every: Some("3600".into()),
        }),
        anchors: Vec::new(),
        events: Section::Facts(super::facts::Buckets {
            unit: "day".into(),
            buckets: Vec::new(),
        }),
        event_kinds: none(),
        keyrings: none(),
        keyring_versions: none(),
        key_totals: none(),
        keys: none(),
        moves: none(),
        period_totals: Section::Facts(super::facts::PeriodTotals {
            versions: 0,
            kept: 0,
            overrun: 0,
            without_end: 0,
            decrypt_without_end: 0,
        }),
        periods: none(),
        rotations: none(),
        jobs: none(),
        census_totals: Section::Facts(super::facts::CensusTotals {
            columns: 0,
            never_counted: 0,
            rows: 0,
            rows_current: 0,
            rows_older: 0,
            rows_compromised: 0,
            rows_shredded: 0,
            oldest_count: None,
        }),
        census: none(),
        searched: none(),
        look_ups: none(),
        usage: none(),
        usage_by_key: none(),
        grants: none(),
        access_acts: none(),
        refusals: none(),
        unusual: none(),
        approvals: none(),
        destructions: none(),
        destruction_acts: none(),
        escrows: none(),
        custodians: none(),
        drills: none(),
        escrow_acts: none(),
        findings: Section::Facts(Findings {
            critical: 0,
            warnings: 0,
            notices: 0,
            list: Listed {
                total: 0,
                shown: Vec::new(),
            },
        }),
    }
}
