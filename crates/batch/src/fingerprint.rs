//! Fingerprints: short keys for texts of any length, the same in every run.

use std::fmt;

use threadrunner_core::fnv;

/// A 128-bit hash that stands for a text, so that a million ids take little memory. Among a million
/// ids, two collide by chance in one of 10^26 batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u64; 2]);

impl Fingerprint {
    /// Hashes a text with FNV-1a, which no new version of the standard library changes: one run
    /// looks up what another wrote.
    pub(crate) fn of(text: &str) -> Self {
        Self::from(fnv::of(text.as_bytes()))
    }

    /// Parses a fingerprint as `Display` writes it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32).map(Self::from)
    }
}

impl From<u128> for Fingerprint {
    fn from(hash: u128) -> Self {
        Self([(hash >> 64) as u64, hash as u64])
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[0], self.0[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_those_of_the_published_test_vectors() {
        for (text, hash) in [
            ("", "6c62272e07bb014262b821756295c58d"),
            ("a", "d228cb696f1a8caf78912b704e4a8964"),
            ("foobar", "343e1662793c64bf6f0d3597ba446f18"),
        ] {
            assert_eq!(Fingerprint::of(text).to_string(), hash);
            assert_eq!(Fingerprint::parse(hash), Some(Fingerprint::of(text)));
        }
        for bad in ["", "12", "g228cb696f1a8caf78912b704e4a8964"] {
            assert_eq!(Fingerprint::parse(bad), None);
        }
    }
}
