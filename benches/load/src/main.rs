//! Loads Bidiway, a TCP relay and Envoy in turn, and tells what each costs per operation.
//!
//! `run` is the whole measurement and what `benches/run` calls. It starts the other subcommands as processes of
//! their own: `echo` is the service, `relay` the floor under every proxy, `drive` the client. docs/performance.md
//! has the method.
#![forbid(unsafe_code)]

mod drive;
mod echo;
mod latencies;
mod relay;
mod run;
mod shape;

use std::{net::SocketAddr, process::ExitCode};

use clap::Parser;

#[derive(Parser)]
#[command(name = "bidiway-load", version, about)]
enum Command {
    /// The service behind every proxy: answers each message with itself.
    Echo {
        /// Where to listen; the address in use is printed.
        #[arg(default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// A plain TCP relay: what no proxy of this kind can go below.
    Relay {
        /// Where connections go.
        target: SocketAddr,
        /// Where to listen; the address in use is printed.
        #[arg(default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// One client: connects, then does as many operations as it is told to.
    Drive(drive::Args),
    /// The measurement: starts everything, loads each in turn, prints the tables.
    Run(run::Args),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Echo { listen } => on_one_thread(echo::run(listen)),
        Command::Relay { target, listen } => on_one_thread(relay::run(target, listen)),
        Command::Drive(args) => on_one_thread(drive::run(args)),
        Command::Run(args) => run::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bidiway-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn on_one_thread(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(task)
}

/// Ends when standard input does: the process that started this one has gone or wants no more.
async fn parent_gone() {
    // A thread of its own, as standard input cannot be polled; it sleeps until the end.
    let (gone, wait) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(gone);
    });
    let _ = wait.await;
}
