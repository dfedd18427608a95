//! Which chapter answers what the standards ask for. The numbers are those of docs/compliance.md, which says what was
//! compared with which text; a test compares the two.

pub const SP: &str = "SP 800-57 part 1 rev. 5";
pub const SP2: &str = "SP 800-57";
pub const PCI: &str = "PCI DSS 4.0.1";
pub const GDPR: &str = "GDPR";

/// What a standard asks for, by its number there.
pub struct Asked {
    pub standard: &'static str,
    pub number: &'static str,
    pub asks: &'static str,
    pub chapters: &'static [&'static str],
}

const fn asked(
    standard: &'static str,
    number: &'static str,
    asks: &'static str,
    chapters: &'static [&'static str],
) -> Asked {
    Asked {
        standard,
        number,
        asks,
        chapters,
    }
}

#[rustfmt::skip]
pub const ASKED: &[Asked] = &[
    asked(SP, "5.3.5, 5.3.6", "how long each key encrypts, and how long it decrypts", &["periods"]),
    asked(SP, "5.5", "act on a compromise", &["states", "rotations"]),
    asked(SP, "7", "states of keys and their transitions", &["keys", "states"]),
    asked(SP, "8.2.2", "backup and recovery of keys", &["keyrings", "escrow"]),
    asked(SP, "8.2.3", "keys are changed", &["rotations", "census"]),
    asked(SP, "8.3.4", "destruction", &["destruction"]),
    asked(SP, "9.1", "access control", &["access"]),
    asked(SP, "9.2", "inventory", &["keyrings", "keys", "census"]),
    asked(SP, "9.3", "accountability: who did what", &["states", "access", "unusual"]),
    asked(SP, "9.4", "audit", &["chain", "events"]),
    asked(SP, "9.5", "survivability", &["escrow"]),
    asked(SP2, "part 2, 4.9", "acts that need several people", &["approvals"]),
    asked(PCI, "3.6.1.1", "a description of the architecture, with an inventory of keys", &["keyrings", "keys"]),
    asked(PCI, "3.6.1.2", "secret keys are stored encrypted or in a secure device", &["keyrings"]),
    asked(PCI, "3.6.1.3", "fewest custodians", &["access", "escrow"]),
    asked(PCI, "3.7.4", "keys are changed at the end of their period", &["periods", "rotations"]),
    asked(PCI, "3.7.5", "keys are retired, replaced or destroyed", &["states", "destruction"]),
    asked(PCI, "3.7.6", "split knowledge and dual control", &["approvals", "escrow"]),
    asked(PCI, "3.7.7", "no substitution of keys", &["unusual", "findings"]),
    asked(PCI, "10.2", "a log of access and of acts", &["events", "access", "refusals"]),
    asked(PCI, "10.3", "the log is protected", &["chain"]),
    asked(PCI, "12.3.3", "an inventory of cipher suites", &["keys"]),
    asked(GDPR, "17", "erasure on request", &["destruction"]),
    asked(GDPR, "32(1)(a), (b)", "encryption and confidentiality", &["keys", "access", "census"]),
    asked(GDPR, "32(1)(c), (d)", "restoring access; measures are tested", &["escrow", "findings"]),
];

/// What is asked of a chapter, one standard after the other.
pub fn of(chapter: &str) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    for asked in ASKED
        .iter()
        .filter(|asked| asked.chapters.contains(&chapter))
    {
        labels.push(label(asked));
    }
    labels
}

pub fn label(asked: &Asked) -> String {
    match asked.standard {
        GDPR => format!("GDPR art. {}", asked.number),
        PCI => format!("PCI DSS {}", asked.number),
        _ => format!("SP 800-57 {}", asked.number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_one_that_the_page_on_compliance_has() {
        let page = include_str!("../../../../docs/compliance.md");
        let part = |heading: &str| {
            let (_, rest) = page.split_once(heading).expect(heading);
            rest.split("\n## ").next().unwrap()
        };
        for asked in ASKED {
            let part = match asked.standard {
                PCI => part("## PCI DSS 4.0.1\n"),
                GDPR => part("## GDPR "),
                _ => part("## SP 800-57 part 1, revision 5\n"),
            };
            let row = format!("\n| {} | ", asked.number);
            assert!(part.contains(&row), "{} {}", asked.standard, asked.number);
        }
    }
}
