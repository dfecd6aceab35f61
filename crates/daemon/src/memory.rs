//! Memory of processes and of the machine, as the kernel counts it.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// The resident memory of a process in bytes, from `/proc/PID/status`; 0 if it cannot be read.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    of_process(pid, "VmRSS:")
}

/// The resident memory that is not backed by files, in bytes; 0 if it cannot be read. The system
/// counts only this as used: the pages of a model file count as available, because they can be read
/// again.
pub(crate) fn anonymous_bytes(pid: u32) -> u64 {
    of_process(pid, "RssAnon:")
}

fn of_process(pid: u32, key: &str) -> u64 {
    let status = read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kilobytes(&status, key).unwrap_or_default()
}

/// How many bytes programs can take without swapping: the least of what the system has available
/// and of what this process's control groups leave. `None` if unknown.
pub(crate) fn available_bytes() -> Option<u64> {
    let system = kilobytes(&read_to_string("/proc/meminfo").unwrap_or_default(), "MemAvailable:");
    let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = available_in_groups(&groups, Path::new("/sys/fs/cgroup"));
    system.into_iter().chain(group).min()
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least that is left in the control groups that `/proc/self/cgroup` names and in their
/// ancestors.
fn available_in_groups(groups: &str, mount: &Path) -> Option<u64> {
    groups
        .lines()
        .filter_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let files = match controllers {
                "" => VERSION_2,
                list if list.split(',').any(|name| name == "memory") => VERSION_1,
                _ => return None,
            };
            Some((mount.join(files.folder), path.trim_start_matches('/'), files))
        })
        .flat_map(|(root, path, files)| {
            // In a container, the path is often that on the host; the container's own group is the
            // root.
            let groups: Vec<PathBuf> = root
                .join(path)
                .ancestors()
                .map(Path::to_owned)
                .take_while(|it| it.starts_with(&root))
                .collect();
            groups.into_iter().filter_map(move |group| available_in(&group, &files))
        })
        .min()
}

#[derive(Debug, Clone, Copy)]
struct GroupFiles {
    folder: &'static str,
    limit: &'static str,
    used: &'static str,
    cached: &'static str,
}

const VERSION_2: GroupFiles =
    GroupFiles { folder: "", limit: "memory.max", used: "memory.current", cached: "file " };
const VERSION_1: GroupFiles = GroupFiles {
    folder: "memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cached: "total_cache ",
};

fn available_in(group: &Path, files: &GroupFiles) -> Option<u64> {
    let number = |name: &str| read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    // "max" does not parse, and means no limit.
    let limit = number(files.limit)?;
    let used = number(files.used)?;
    let details = read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cached =
        details.lines().find_map(|line| line.strip_prefix(files.cached)?.trim().parse().ok());
    Some(limit.saturating_sub(used.saturating_sub(cached.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_there_is_some_left() {
        let pid = std::process::id();
        let (resident, anonymous) = (resident_bytes(pid), anonymous_bytes(pid));
        assert!(anonymous > 0 && anonymous < resident, "{anonymous} of {resident}");
        assert!(available_bytes() > Some(1 << 20));
        assert_eq!(resident_bytes(u32::MAX), 0);
    }

    #[test]
    fn the_narrowest_group_counts_and_cached_files_are_free() {
        let mount = tempfile::tempdir().unwrap();
        let group = |path: &str, limit: &str, used: u64, cached: u64| {
            let folder = mount.path().join(path);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("memory.max"), limit).unwrap();
            std::fs::write(folder.join("memory.current"), format!("{used}\n")).unwrap();
            let details = format!("anon 5\nfile {cached}\nfile_mapped 3\n");
            std::fs::write(folder.join("memory.stat"), details).unwrap();
        };
        group("user", "1000\n", 400, 100);
        group("user/inner", "max\n", 300, 0);
        let available = |groups: &str| available_in_groups(groups, mount.path());
        assert_eq!(available("0::/user/inner\n"), Some(700));
        group("user/inner", "350\n", 300, 0);
        assert_eq!(available("0::/user/inner\n"), Some(50));
        assert_eq!(available("0::/nowhere\n"), None);
        assert_eq!(available("3:cpu:/user\n"), None);
        group("", "90\n", 40, 0);
        assert_eq!(available("0::/outside/of/this\n"), Some(50));
    }
}
