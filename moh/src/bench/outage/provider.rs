//! A provider as a process, which can be stopped, killed and started again.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use moh_server::{Environment, SecretKeys};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::authority::Authority;

/// How long a provider may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of what a provider has logged is shown when it does not start, in bytes.
const LOG_TAIL_BYTES: u64 = 2048;

/// `moh serve`, in a folder of its own.
pub(super) struct Provider {
    name: &'static str,
    folder: PathBuf,
    process: Option<Child>,
}

impl Provider {
    /// The provider `name`, with its data below `folder`, for which `peer` is at an address.
    /// It does not run yet.
    pub(super) fn new(
        folder: &Path,
        authority: &Authority,
        name: &'static str,
        peer: (&str, SocketAddr),
    ) -> Result<Self> {
        let home = folder.join(name);
        std::fs::create_dir(&home)?;
        authority.certify(&home, name)?;
        SecretKeys::generate(&*Environment::system().random).write(&home.join("keys.toml"))?;
        // Others reach it by its name alone: the port is another one after each start.
        let (peer, address) = peer;
        let config = format!(
            "name = \"{name}\"\nds_domain = \"{name}\"\nlisten = \"127.0.0.1:0\"\n\
             store = \"moh.sqlite\"\nkeys = \"keys.toml\"\nregistration = \"open\"\n\
             [tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n\
             [federation]\nextra_roots = [\"../ca.pem\"]\nallow_private_addresses = true\n\
             hosts = {{ \"{peer}\" = \"{address}\" }}\n"
        );
        std::fs::write(home.join("moh.toml"), config)?;
        Ok(Self {
            name,
            folder: home,
            process: None,
        })
    }

    /// Starts it with the data that it had before; where it takes requests.
    pub(super) async fn start(&mut self) -> Result<SocketAddr> {
        let started = tokio::time::timeout(PATIENCE, self.try_to_start()).await;
        let started = started.unwrap_or_else(|_| bail!("not within {} s", PATIENCE.as_secs()));
        let logged = || format!("{} does not start\n{}", self.name, self.log_tail());
        started.with_context(logged)
    }

    async fn try_to_start(&mut self) -> Result<SocketAddr> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", "--config"])
            .arg(self.folder.join("moh.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("it has no output")?;
        self.process = Some(child);
        let line = BufReader::new(stdout).lines().next_line().await?;
        let line = line.context("it has ended")?;
        let address = line
            .strip_prefix("ready https://")
            .and_then(|rest| rest.split_once(' ')?.0.parse().ok());
        address.with_context(|| format!("it says {line:?}"))
    }

    /// SIGSTOP; it does nothing more, when this returns, until it is [resumed](Self::resume).
    pub(super) fn stop(&self) -> Result<()> {
        let id = self.id()?;
        kill_process(id, Signal::STOP)?;
        waitid(WaitId::Pid(id), WaitIdOptions::STOPPED)?;
        Ok(())
    }

    /// SIGCONT.
    pub(super) fn resume(&self) -> Result<()> {
        Ok(kill_process(self.id()?, Signal::CONT)?)
    }

    /// SIGKILL; it is gone when this returns.
    pub(super) async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.process.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Of a process that was started and not waited for, so that it cannot be another one's.
    fn id(&self) -> Result<Pid> {
        let id = self.process.as_ref().and_then(Child::id);
        let id = id.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        id.with_context(|| format!("{} does not run", self.name))
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("stderr.log")
    }

    /// The end of what it has logged.
    pub(super) fn log_tail(&self) -> String {
        let tail = || -> std::io::Result<String> {
            let mut file = File::open(self.log_path())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
        };
        tail().unwrap_or_default()
    }
}
