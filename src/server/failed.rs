//! Why a worker's transaction failed: the message, and what it is about.
//!
//! pgrx keeps only the SQLSTATEs it knows, and would turn all of ours into `XX000`. So an error of ours carries its
//! SQLSTATE once more, packed, as the line that it was raised on (`NativeReport::raise`): a longjmp, a re-raise by
//! others' code and by pgrx, and the way from a parallel worker all keep that. What is told from it belongs to the
//! error that ended the transaction and to no other, and there is no state that somebody has to remember to clear.

use std::fmt;

use colcrypt_domain::sqlstate;
use colcrypt_domain::verdict::Verdict;
use pgrx::pg_sys::panic::CaughtError;

use crate::error::Error;
use crate::server::{limit, report};

/// What ended a transaction.
#[derive(Clone, Debug)]
pub struct Failed {
    pub message: String,
    detail: Option<String>,
    /// The SQLSTATE, packed.
    code: i32,
    pub verdict: Verdict,
}

impl Failed {
    /// Whether it is an error of this SQLSTATE.
    pub fn is(&self, sqlstate: &str) -> bool {
        self.code == sqlstate::pack(sqlstate)
    }

    /// A caught ERROR or panic.
    pub fn caught(error: &CaughtError) -> Self {
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic {
            ereport: report, ..
        }) = error;
        let is_ours = report.file().as_bytes() == report::ORIGIN.to_bytes();
        let packed = if is_ours {
            report.line_number() as i32
        } else {
            report.sql_error_code() as i32
        };
        Self {
            message: report.message().to_string(),
            detail: None,
            code: packed,
            verdict: Verdict::of(packed, is_ours),
        }
        .in_time()
    }

    /// An error that was returned.
    pub fn returned(error: &Error) -> Self {
        let report = error.report();
        Self {
            verdict: Verdict::of(sqlstate::pack(report.sqlstate), true),
            code: sqlstate::pack(report.sqlstate),
            message: report.message,
            detail: report.detail,
        }
        .in_time()
    }

    /// The code of a table's owner took too long.
    pub fn for_time() -> Self {
        Self {
            message: limit::message(),
            detail: None,
            code: 0,
            verdict: Verdict::OwnersCode,
        }
    }

    /// What says nothing of any row, though it may last.
    pub fn into_outage(self) -> Self {
        Self {
            verdict: Verdict::Outage,
            ..self
        }
    }

    /// The same, unless it only fails because its time was over.
    fn in_time(self) -> Self {
        if limit::has_struck() {
            Self::for_time()
        } else {
            self
        }
    }

    /// The detail made a part of the message.
    pub fn with_detail(mut self) -> Self {
        if let Some(detail) = self.detail.take() {
            self.message = format!("{}: {detail}", self.message);
        }
        self
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
