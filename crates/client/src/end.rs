//! Ending a daemon, even one that does not answer.

use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use threadrunner_core::protocol::{StopQuery, ask};
use threadrunner_core::{ErrorCode, Failure};
use threadrunner_home::FileLock;
use tokio::time::{Instant, timeout};

use crate::connection::Client;
use crate::daemon::{Daemon, Phase, START_LIMIT, look_again};

/// How long a daemon may take to answer a stop request.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long a daemon that accepted `stop --now` may take to exit. It kills engines that take longer
/// than 5 s.
const OBEY_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to exit after SIGTERM, and after SIGKILL.
const TERM_LIMIT: Duration = Duration::from_secs(3);
const KILL_LIMIT: Duration = Duration::from_secs(5);

impl Daemon {
    /// Ends the running daemon and waits until it is gone; `false` if none runs.
    ///
    /// With `now`, a daemon that does not obey is sent SIGTERM and then SIGKILL, each reported as
    /// [`Phase::Signaled`].
    ///
    /// # Errors
    /// [`ErrorCode::Timeout`] if it does not end; [`ErrorCode::DaemonUnavailable`] if it may not be
    /// signaled.
    pub async fn stop(&self, now: bool) -> Result<bool, Failure> {
        if now {
            return self.stop_now().await;
        }
        let deadline = Instant::now() + START_LIMIT;
        match self.connect().await? {
            Some(client) => self.stop_and_wait(client, deadline).await?,
            // Nothing listens, but a daemon that is ending may still hold its lock.
            None if self.is_locked()? => self.wait_until_gone(deadline).await?,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Asks the daemon to end, after its grace time for running jobs, and waits until it is gone.
    pub(crate) async fn stop_and_wait(
        &self,
        client: Client,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let mut replies = client.request(ask::Stop(StopQuery { now: false })).await?;
        drop(client);
        // Any answer will do: what counts is that the daemon ends.
        if timeout(ANSWER_LIMIT, replies.next()).await.is_err() {
            let who = match FileLock::holder(&self.home().daemon_lock()) {
                Some(pid) => format!("the daemon (process {pid})"),
                None => "the daemon".to_owned(),
            };
            return Err(Failure::new(
                ErrorCode::Timeout,
                format!("{who} did not answer within {} s", ANSWER_LIMIT.as_secs()),
            )
            .hint("`threadrunner daemon stop --now` ends it even if it does not answer"));
        }
        self.wait_until_gone(deadline).await
    }

    pub(crate) async fn wait_until_gone(&self, deadline: Instant) -> Result<(), Failure> {
        while self.is_locked()? {
            look_again(deadline, "the daemon has not exited").await?;
        }
        Ok(())
    }

    async fn stop_now(&self) -> Result<bool, Failure> {
        if !self.is_locked()? {
            return Ok(false);
        }
        let obeys = timeout(ANSWER_LIMIT, self.order_to_end()).await.unwrap_or(false);
        if obeys && self.is_gone_within(OBEY_LIMIT).await? {
            return Ok(true);
        }
        for (signal, limit) in [(Signal::TERM, TERM_LIMIT), (Signal::KILL, KILL_LIMIT)] {
            self.signal(signal)?;
            if self.is_gone_within(limit).await? {
                return Ok(true);
            }
        }
        Err(Failure::new(
            ErrorCode::Timeout,
            "the daemon is still running after SIGTERM and SIGKILL",
        )
        .hint("a process blocked on a disk or network file system exits once that responds"))
    }

    /// Orders the daemon to end at once; returns whether the order arrived.
    async fn order_to_end(&self) -> bool {
        let Ok(Some(client)) = self.connect().await else { return false };
        let Ok(mut replies) = client.request(ask::Stop(StopQuery { now: true })).await else {
            return false;
        };
        drop(client);
        match replies.next().await {
            Ok(_) => true,
            // It ended before it could answer.
            Err(failure) => failure.code == ErrorCode::ConnectionLost,
        }
    }

    async fn is_gone_within(&self, limit: Duration) -> Result<bool, Failure> {
        match self.wait_until_gone(Instant::now() + limit).await {
            Ok(()) => Ok(true),
            Err(failure) if failure.code == ErrorCode::Timeout => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Sends a signal to the process that holds the daemon's lock.
    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let path = self.home().daemon_lock();
        let Some(pid) = FileLock::holder(&path) else {
            if !self.is_locked()? {
                return Ok(());
            }
            return Err(Failure::new(
                ErrorCode::Timeout,
                "the daemon does not answer, and its process id is unknown",
            )
            .hint(format!("it holds the lock {}: `fuser` shows the process", path.display())));
        };
        self.tell(Phase::Signaled { pid, killed: signal == Signal::KILL });
        let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
        let cannot = |error: rustix::io::Errno| {
            Failure::new(
                ErrorCode::DaemonUnavailable,
                format!("cannot kill the daemon (process {pid}): {error}"),
            )
            .hint(format!("run `kill -KILL {pid}` as the user who started it"))
        };
        let process = match pidfd_open(process, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            opened => opened.map_err(cannot)?,
        };
        // The id may have been reused before the descriptor was opened. If the holder still has it,
        // the descriptor refers to the holder.
        if FileLock::holder(&path) != Some(pid) {
            return Ok(());
        }
        let mut sent = pidfd_send_signal(&process, signal);
        if signal == Signal::TERM {
            // A stopped process (Ctrl-Z) handles SIGTERM only once it continues.
            sent = sent.and_then(|()| pidfd_send_signal(&process, Signal::CONT));
        }
        match sent {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(cannot(error)),
        }
    }
}
