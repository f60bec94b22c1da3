//! The processes of a measurement: started here, ended here, and no others.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

/// No line that is waited for takes longer, even under valgrind.
const PATIENCE: Duration = Duration::from_secs(300);

/// A child. It is asked to end, and then made to, when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    log: std::path::PathBuf,
}

impl Process {
    /// Starts a program with as many file descriptors as this process may have at most. What it says on standard
    /// error goes to a file in `dir`.
    pub fn start(dir: &Path, name: &str, program: &[&str]) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let mut child = Command::new("sh")
            .args(["-c", "ulimit -n $(ulimit -Hn); exec \"$@\"", "sh"])
            .args(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().context("a child without standard output")?;
        let (sender, lines) = mpsc::sync_channel(16);
        thread::spawn(move || {
            // A child that says more than anybody reads must not block on it.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.try_send(line);
            }
        });
        Ok(Self { name: name.to_owned(), stdin: child.stdin.take(), child, lines, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its standard output.
    pub fn line(&self) -> anyhow::Result<String> {
        self.lines.recv_timeout(PATIENCE).map_err(|_| self.trouble("said nothing more"))
    }

    pub fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().context("standard input is closed")?;
        writeln!(stdin, "{line}").map_err(|_| self.trouble("does not listen"))
    }

    /// Waits until its log says something.
    pub fn wait_for_log(&self, words: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if std::fs::read_to_string(&self.log)?.contains(words) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(self.trouble(&format!("never said {words:?}")))
    }

    /// Waits until it accepts connections.
    pub fn wait_for_port(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.trouble(&format!("ended with {status}")));
            }
            if TcpStream::connect(address).is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(self.trouble("does not accept connections"))
    }

    /// Asks it to end with a signal and waits until it has.
    pub fn stop(mut self, signal: &str) -> anyhow::Result<()> {
        self.stdin = None;
        self.signal(signal)?;
        if self.ended_within(PATIENCE) { Ok(()) } else { bail!("{} does not end", self.name) }
    }

    fn signal(&self, signal: &str) -> anyhow::Result<()> {
        Command::new("kill").args([signal, &self.pid().to_string()]).status()?;
        Ok(())
    }

    fn ended_within(&mut self, patience: Duration) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// An error with the last words of its log.
    fn trouble(&self, what: &str) -> anyhow::Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(12).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n  ");
        anyhow::anyhow!("{} {what}; its log ends with:\n  {last}", self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Our own programs end with their standard input, the others by the signal.
        self.stdin = None;
        if self.ended_within(Duration::from_millis(100)) {
            return;
        }
        let _ = self.signal("-TERM");
        if !self.ended_within(Duration::from_secs(5)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A port that is free now.
pub fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
