//! A hash that is the same on every run and machine.

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

fn step(hash: u128, byte: &u8) -> u128 {
    (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
}

/// 128-bit FNV-1a over the bytes. Not collision resistant: a caller must check what it finds by it.
pub fn of(bytes: &[u8]) -> u128 {
    bytes.iter().fold(OFFSET, step)
}

/// The same over the parts, each followed by a zero byte.
pub fn hash(parts: &[&[u8]]) -> u128 {
    let part = |hash: u128, part: &&[u8]| step(part.iter().fold(hash, step), &0);
    parts.iter().fold(OFFSET, part)
}

/// The [`hash`] in hexadecimal: a short name for long ones.
pub fn name_of(parts: &[&[u8]]) -> String {
    format!("{:032x}", hash(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_tomorrow_and_each_part_counts() {
        // The published offset basis, which is the hash of no input.
        assert_eq!(name_of(&[]), "6c62272e07bb014262b821756295c58d");
        assert_ne!(name_of(&[b"ab", b"c"]), name_of(&[b"a", b"bc"]));
        assert_eq!(name_of(&[b"a"]).len(), 32);
    }
}
