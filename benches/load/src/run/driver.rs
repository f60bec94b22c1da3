//! The client, from outside.

use std::net::SocketAddr;

use super::{process::Process, target::Programs};
use crate::{
    drive,
    shape::{Dialect, Kind, Named, Shape},
};

/// A client whose connections and streams are open.
#[derive(Debug)]
pub struct Driver {
    process: Process,
}

impl Driver {
    pub fn start(
        programs: &Programs,
        target: SocketAddr,
        dialect: Dialect,
        shape: Shape,
        method: Option<&str>,
    ) -> anyhow::Result<Self> {
        let dialect = match dialect {
            Dialect::Session => "session",
            Dialect::SessionHttp => "session-http",
            Dialect::H2 => "h2",
            Dialect::GrpcWeb => "grpc-web",
        };
        let kind = match shape.kind {
            Kind::Echo => "echo",
            Kind::Unary => "unary",
        };
        let mut words: Vec<String> = vec![programs.load.clone(), "drive".into()];
        let mut option = |name: &str, value: &dyn ToString| {
            words.push(name.to_owned());
            words.push(value.to_string());
        };
        option("--target", &target);
        option("--dialect", &dialect);
        option("--kind", &kind);
        option("--sockets", &shape.sockets);
        option("--streams", &shape.streams);
        option("--window", &shape.window);
        option("--size", &shape.size);
        option("--rate", &shape.rate);
        if let Some(method) = method {
            option("--method", &method);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let process = Process::start(&programs.dir, "drive", &words)?;
        process.line()?;
        Ok(Self { process })
    }

    pub fn named(
        programs: &Programs,
        target: SocketAddr,
        dialect: Dialect,
        shape: Named,
    ) -> anyhow::Result<Self> {
        Self::start(programs, target, dialect, shape.shape(), None)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Has so many operations done.
    pub fn go(&mut self, operations: u64) -> anyhow::Result<drive::Result> {
        self.process.tell(&format!("go {operations}"))?;
        Ok(serde_json::from_str(&self.process.line()?)?)
    }
}
