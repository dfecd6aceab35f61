//! The signals that this process ignores because its parent did.

/// The number of SIGINT, on every system.
const INTERRUPT: u32 = 2;

/// The ignored signals as a bit mask, with signal 1 in the lowest bit; 0 if the system does not
/// tell.
pub fn ignored_signals() -> u64 {
    std::fs::read_to_string("/proc/self/status").map_or(0, |status| ignored_in(&status))
}

/// Whether SIGINT is ignored. The terminal's Ctrl-C is not meant for a script's background job, so
/// no handler should be installed then.
pub fn interrupt_is_ignored() -> bool {
    ignored_signals() & (1 << (INTERRUPT - 1)) != 0
}

fn ignored_in(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_read_from_what_linux_says_of_a_process() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001003\nSigCgt:\t00000000\n";
        assert_eq!(ignored_in(status), 0x1003);
        assert_eq!(ignored_in("Name:\tx\n"), 0);
    }
}
