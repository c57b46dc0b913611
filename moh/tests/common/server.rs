//! A provider, as a process of its own.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use moh_messages::ProviderName;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::answer::Http;
use super::in_time;

/// `moh serve --dev`; it is killed when this is dropped.
pub(crate) struct Server {
    pub(crate) name: ProviderName,
    pub(crate) address: SocketAddr,
    folder: TempDir,
    wrapper: Vec<OsString>,
    arguments: Vec<OsString>,
    /// Instead of `--dev`.
    config: Option<PathBuf>,
    process: Option<Child>,
}

impl Server {
    /// A provider that knows no other.
    pub(crate) async fn start(name: &str) -> Self {
        Self::start_under(name, Vec::new()).await
    }

    /// A provider whose command is given to another one.
    pub(crate) async fn start_under(name: &str, wrapper: Vec<OsString>) -> Self {
        let mut server = Self::new(name, SocketAddr::from(([127, 0, 0, 1], 0)));
        server.wrapper = wrapper;
        server.restart().await;
        server
    }

    /// A provider with a configuration, which has these settings.
    pub(crate) async fn start_with(name: &str, settings: &str) -> Self {
        let mut server = Self::start(name).await;
        server.configure(settings).await;
        server
    }

    /// Starts it anew with a configuration, which has these settings.
    pub(crate) async fn configure(&mut self, settings: &str) {
        self.kill().await;
        let config = self.path("moh.toml");
        let (name, address) = (&self.name, self.address);
        let text = format!(
            "name = \"{name}\"\nlisten = \"{address}\"\nstore = \"moh.sqlite\"\n\
             keys = \"keys.toml\"\n{settings}\n\
             [tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n"
        );
        std::fs::write(&config, text).unwrap();
        self.config = Some(config);
        self.restart().await;
    }

    /// Codes that `moh invite` makes for its configuration.
    pub(crate) async fn invitations(&self, count: usize) -> Vec<String> {
        let output = Command::new(env!("CARGO_BIN_EXE_moh"))
            .arg("invite")
            .arg("--config")
            .arg(self.path("moh.toml"))
            .args(["--count", &count.to_string()])
            .kill_on_drop(true)
            .output();
        let output = in_time("invitations", output).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let codes: Vec<_> = text.lines().map(str::to_owned).collect();
        assert_eq!(codes.len(), count, "{text}");
        codes
    }

    /// Two providers that reach and trust each other.
    pub(crate) async fn start_two() -> (Self, Self) {
        let [at_a, at_b] = free_addresses();
        let mut a = Self::new("a.example", at_a);
        let mut b = Self::new("b.example", at_b);
        // Each makes its certificate authority when it is started first.
        a.restart().await;
        a.kill().await;
        b.befriend(&a);
        b.restart().await;
        a.befriend(&b);
        a.restart().await;
        (a, b)
    }

    fn new(name: &str, address: SocketAddr) -> Self {
        Self {
            name: name.parse().unwrap(),
            address,
            folder: tempfile::tempdir().unwrap(),
            wrapper: Vec::new(),
            arguments: Vec::new(),
            config: None,
            process: None,
        }
    }

    fn befriend(&mut self, other: &Self) {
        let peer = format!("{}={}", other.name, other.address);
        let trust = other.path("ca.pem").into_os_string();
        self.arguments
            .extend(["--peer".into(), peer.into(), "--trust".into(), trust]);
    }

    /// Starts it, with the data and at the address that it had before.
    pub(crate) async fn restart(&mut self) {
        assert!(self.process.is_none(), "it is running");
        let log = self.path("stderr.log");
        let stderr = OpenOptions::new().create(true).append(true).open(&log);
        let mut words = self.wrapper.clone();
        words.push(env!("CARGO_BIN_EXE_moh").into());
        words.push("serve".into());
        if let Some(config) = &self.config {
            words.extend(["--config".into(), config.into()]);
        } else {
            words.extend(["--dev".into(), "--name".into()]);
            words.extend([self.name.as_str().into(), "--listen".into()]);
            words.extend([self.address.to_string().into(), "--data".into()]);
            words.push(self.folder.path().into());
            words.extend(self.arguments.iter().cloned());
        }
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .env_remove("MOH_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr.unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = in_time("the ready line", lines.next_line()).await.unwrap();
        let line = line.unwrap_or_else(|| {
            panic!("it ended: {}", std::fs::read_to_string(&log).unwrap());
        });
        let (url, name) = line
            .strip_prefix("ready ")
            .and_then(|rest| rest.split_once(" name="))
            .unwrap_or_else(|| panic!("no ready line: {line}"));
        assert_eq!(name, self.name.as_str());
        self.address = url.strip_prefix("https://").unwrap().parse().unwrap();
        self.process = Some(child);
    }

    /// SIGKILL; it is gone when this returns.
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.exit().await;
    }

    /// A signal to this process.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).unwrap();
    }

    fn id(&self) -> Pid {
        let id = self.process.as_ref().and_then(Child::id).unwrap();
        Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
    }

    /// SIGSTOP; it does nothing more, when this returns, until it gets SIGCONT.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        let stopped = waitid(WaitId::Pid(self.id()), WaitIdOptions::STOPPED).unwrap();
        assert!(stopped.is_some_and(|status| status.stopped()));
    }

    /// Waits until it has ended.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let mut process = self.process.take().unwrap();
        in_time("the end of the process", process.wait())
            .await
            .unwrap()
    }

    /// A file in its folder.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("stderr.log")).unwrap()
    }

    /// An HTTP client for it, which trusts its certificate authority alone.
    pub(crate) fn http(&self) -> Http {
        // A connection for each request: none is left from before a restart.
        self.http_with(|builder| builder.pool_max_idle_per_host(0))
    }

    /// The same, with other settings.
    pub(crate) fn http_with(
        &self,
        with: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> Http {
        let authority = read_certificate(&self.path("ca.pem"));
        let builder = reqwest::Client::builder()
            .https_only(true)
            .no_proxy()
            .tls_certs_only([authority])
            .resolve(self.name.as_str(), self.address);
        Http {
            client: with(builder).build().unwrap(),
            base: format!("https://{}:{}", self.name, self.address.port()),
        }
    }
}

fn read_certificate(path: &Path) -> reqwest::Certificate {
    reqwest::Certificate::from_pem(&std::fs::read(path).unwrap()).unwrap()
}

/// Two addresses that nobody listens on.
fn free_addresses() -> [SocketAddr; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}
