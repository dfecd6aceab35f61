//! The socket that the daemon listens on.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use threadrunner_core::{ErrorCode, Failure};

use crate::failures::io_failure;

/// Binds the socket. The caller holds the lock, so an existing socket file is stale.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, Failure> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            fs::remove_file(path).map_err(|error| io_failure("remove", path, &error))?;
        }
        Ok(_) => {
            return Err(Failure::new(
                ErrorCode::Config,
                format!("cannot create the socket: {} exists and is not a socket", path.display()),
            )
            .hint("move it away, or set THREADRUNNER_SOCKET"));
        }
        Err(_) => {}
    }
    // Until the mode is set, the umask keeps other users out.
    let listener = UnixListener::bind(path).map_err(|error| io_failure("bind", path, &error))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .map_err(|error| io_failure("protect", path, &error))?;
    listener.set_nonblocking(true).map_err(|error| io_failure("set up", path, &error))?;
    Ok(listener)
}
