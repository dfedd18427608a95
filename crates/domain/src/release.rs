//! A release's number in one word, as shared memory keeps that of the agent.

/// Set in every word that holds one.
const KNOWN: u64 = 1 << 63;

/// `1.2.3` in a word, without what may follow; 0 for what is no number of a release.
#[must_use]
pub fn packed(version: &str) -> u64 {
    let plain = version.split(['-', '+']).next().unwrap_or_default();
    let parts: Option<Vec<u16>> = plain.split('.').map(|part| part.parse().ok()).collect();
    match parts.as_deref() {
        Some([major, minor, patch]) => {
            KNOWN | u64::from(*major) << 32 | u64::from(*minor) << 16 | u64::from(*patch)
        }
        _ => 0,
    }
}

/// The number that a word holds; none where it holds none.
#[must_use]
pub fn shown(packed: u64) -> Option<String> {
    let part = |by: u32| packed >> by & 0xffff;
    (packed & KNOWN != 0).then(|| format!("{}.{}.{}", part(32), part(16), part(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_back_and_nonsense_is_none() {
        for version in ["0.0.0", "0.2.0", "1.20.300", "65535.65535.65535"] {
            assert_eq!(shown(packed(version)).as_deref(), Some(version));
        }
        assert_eq!(shown(packed("1.2.3-rc.1+x")).as_deref(), Some("1.2.3"));
        for version in ["", "1", "1.2", "1.2.3.4", "a.b.c", "1.2.65536", "-1.2.3"] {
            assert_eq!(shown(packed(version)), None, "{version}");
        }
    }
}
