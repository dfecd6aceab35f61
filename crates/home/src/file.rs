//! Opens files that may be anything, without waiting on a named pipe or reading `/dev/zero`
//! forever; replaces files atomically; and says why a file cannot be used.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use threadrunner_core::{ErrorCode, Failure};

/// Whether to follow a link in a file's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Follow it: the user may keep the file elsewhere.
    Followed,
    /// Refuse it: the file is written, and the link's target is not ours to write.
    Refused,
}

/// Opens a regular file, without blocking. Anything else is an error of the kind
/// [`io::ErrorKind::InvalidInput`] that says what it is.
///
/// # Errors
/// As `open`.
pub fn open_regular(path: &Path, options: &mut OpenOptions, links: Links) -> io::Result<File> {
    let flags = match links {
        Links::Followed => OFlags::NONBLOCK,
        Links::Refused => OFlags::NONBLOCK | OFlags::NOFOLLOW,
    };
    let opened = options.custom_flags(flags.bits().cast_signed()).open(path);
    let found = match (&opened, links) {
        (Ok(file), _) => file.metadata(),
        // A pipe without a reader, a socket or a refused link: each fails with an error of its own.
        (Err(_), Links::Followed) => fs::metadata(path),
        (Err(_), Links::Refused) => fs::symlink_metadata(path),
    };
    match found.map(|found| found.file_type()) {
        Ok(kind) if !kind.is_file() => {
            let message = format!("it is {}, not a file", name_of(kind));
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        }
        _ => opened,
    }
}

/// Reads a regular file of at most `most` bytes, even if it grows meanwhile.
///
/// # Errors
/// As [`open_regular`]; [`io::ErrorKind::FileTooLarge`].
pub fn read_regular(path: &Path, most: u64, links: Links) -> io::Result<Vec<u8>> {
    let file = open_regular(path, OpenOptions::new().read(true), links)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let message = format!("it has more than {most} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// Replaces the content of a file atomically. A link stays, and its target is replaced. The mode of
/// an existing file stays; a new one is accessible to its user only.
///
/// # Errors
/// The file cannot be written. What was there is unchanged.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    put(&target, |file| {
        file.write_all(content)?;
        if let Ok(old) = fs::metadata(&target) {
            file.set_permissions(old.permissions())?;
        }
        file.sync_all()
    })
}

/// Writes a file of ours atomically, in the place of whatever is there: a link is not followed, and
/// a named pipe not waited for. The file is accessible to its user only.
///
/// # Errors
/// The file cannot be written, or a directory is in its place. What was there is unchanged.
pub fn write_own(path: &Path, content: &[u8]) -> io::Result<()> {
    put(path, |file| file.write_all(content))
}

/// The failure for a file that the user named and that cannot be used.
pub fn unusable(verb: &str, path: &Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorCode::FileNotFound,
        // It exists, but is not what the user meant.
        io::ErrorKind::IsADirectory
        | io::ErrorKind::AlreadyExists
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::InvalidInput => ErrorCode::InvalidRequest,
        _ => ErrorCode::Io,
    };
    Failure::new(code, format!("cannot {verb} {}: {error}", path.display()))
}

/// Creates a file next to `path`, has `make` write it, and renames it to `path`.
pub(crate) fn put(path: &Path, make: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut next = path.as_os_str().to_owned();
    next.push(format!(".tmp-{}", std::process::id()));
    let next = PathBuf::from(next);
    let put = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&next)
        .and_then(|mut file| make(&mut file))
        .and_then(|()| fs::rename(&next, path));
    if put.is_err() {
        // A leftover would only be in the way of the next call.
        let _ = fs::remove_file(&next);
    }
    put
}

fn name_of(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    fn refusal(path: &Path, links: Links) -> String {
        read_regular(path, 100, links).unwrap_err().to_string()
    }

    #[test]
    fn a_link_and_the_mode_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real.toml"), dir.path().join("config.toml"));
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("real.toml", &link).unwrap();
        replace_file(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_no_file_is_named_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::RWXU).unwrap();
        let _listener = UnixListener::bind(path("socket")).unwrap();
        fs::create_dir(path("directory")).unwrap();
        symlink("/dev/zero", path("zero")).unwrap();
        for (name, what) in [
            ("pipe", "a named pipe"),
            ("socket", "a socket"),
            ("directory", "a directory"),
            ("zero", "a device"),
        ] {
            let said = refusal(&path(name), Links::Followed);
            assert_eq!(said, format!("it is {what}, not a file"), "{name}");
        }
        let mut writing = OpenOptions::new();
        let writing = writing.write(true).create(true);
        let error = open_regular(&path("pipe"), writing, Links::Refused).unwrap_err();
        assert_eq!(error.to_string(), "it is a named pipe, not a file");
    }

    #[test]
    fn a_link_is_followed_only_where_the_file_may_be_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "text").unwrap();
        symlink(&file, &link).unwrap();
        assert_eq!(read_regular(&link, 4, Links::Followed).unwrap(), b"text");
        assert_eq!(refusal(&link, Links::Refused), "it is a symbolic link, not a file");
    }

    #[test]
    fn what_is_in_the_place_of_our_file_is_neither_written_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("thesis"), "long").unwrap();
        symlink(path("thesis"), path("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::RWXU).unwrap();
        fs::create_dir(path("directory")).unwrap();
        for name in ["link", "pipe", "new"] {
            write_own(&path(name), b"ours").unwrap();
            assert_eq!(read_regular(&path(name), 4, Links::Refused).unwrap(), b"ours", "{name}");
        }
        write_own(&path("directory"), b"ours").unwrap_err();
        assert_eq!(fs::read_to_string(path("thesis")).unwrap(), "long");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
    }

    #[test]
    fn a_file_over_its_limit_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "x".repeat(101)).unwrap();
        assert!(refusal(&path, Links::Followed).contains("more than 100 bytes"));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_no_bug() {
        let exit = |kind: io::ErrorKind| {
            unusable("write", Path::new("/x"), &kind.into()).code.exit_code() as u8
        };
        assert_eq!(exit(io::ErrorKind::NotFound), 7);
        assert_eq!(exit(io::ErrorKind::NotADirectory), 7);
        assert_eq!(exit(io::ErrorKind::IsADirectory), 64);
        assert_eq!(exit(io::ErrorKind::AlreadyExists), 64);
        assert_eq!(exit(io::ErrorKind::StorageFull), 74);
        assert_eq!(exit(io::ErrorKind::PermissionDenied), 74);
        assert_eq!(exit(io::ErrorKind::Other), 74);
    }
}
