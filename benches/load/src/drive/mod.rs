//! The client: opens all its connections and calls, says `ready`, and then does as many operations as each line
//! `go N` on standard input asks for, answering with one line of JSON. Whoever measures a proxy reads its clocks
//! around that line, so connecting and closing are not part of the figure.

mod grpc_web;
mod h2_calls;
mod http_carrier;
mod phase;
mod session;
mod websocket;

use std::{
    io::{BufRead, Write},
    net::SocketAddr,
    sync::Arc,
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::shape::{Dialect, Kind, Named, Shape};
use phase::Phase;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to connect.
    #[arg(long)]
    pub target: SocketAddr,
    #[arg(long, value_enum)]
    pub dialect: Dialect,
    /// A shape by its letter; the options below change it.
    #[arg(long, value_enum, default_value = "A")]
    pub shape: Named,
    #[arg(long, value_enum)]
    pub kind: Option<Kind>,
    /// Connections.
    #[arg(long)]
    pub sockets: Option<u32>,
    /// Streams of each connection, or calls in flight on it.
    #[arg(long)]
    pub streams: Option<u32>,
    /// Messages in flight on each stream.
    #[arg(long)]
    pub window: Option<u32>,
    /// Bytes of a message.
    #[arg(long)]
    pub size: Option<usize>,
    /// Operations a second, over all connections.
    #[arg(long)]
    pub rate: Option<u32>,
    /// The method that is called; by default `/bench.Echo/Bidi` or `/bench.Echo/Unary`.
    #[arg(long)]
    pub method: Option<String>,
    /// Where the WebSocket is.
    #[arg(long, default_value = "/bidiway/session")]
    pub path: String,
    /// Sessions ask to be resumable: they acknowledge, and the proxy keeps what is not acknowledged.
    #[arg(long)]
    pub resumable: bool,
    /// Do so many operations, print the result and end, without reading standard input.
    #[arg(long)]
    pub operations: Option<u64>,
}

/// What a phase came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Result {
    pub operations: u64,
    pub wall_ns: u64,
    pub p50_ns: u64,
    pub p99_ns: u64,
}

/// What a connection needs to know.
#[derive(Clone, Debug)]
struct Plan {
    target: SocketAddr,
    shape: Shape,
    method: String,
    path: String,
    resumable: bool,
    /// Sessions go by the HTTP carrier.
    http: bool,
}

/// One of the tasks that do the operations: a socket with all its streams, a stream, a connection.
trait Worker: Send + 'static {
    /// Takes operations from the phase and does them until there are none left.
    fn work(&mut self, phase: &Phase) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Between phases: answers what the proxy asks. Ends only if the connection does, and may be dropped any time.
    fn idle(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send {
        std::future::pending()
    }
}

impl Args {
    fn plan(&self) -> anyhow::Result<Plan> {
        let named = self.shape.shape();
        let shape = Shape {
            kind: self.kind.unwrap_or(named.kind),
            sockets: self.sockets.unwrap_or(named.sockets),
            streams: self.streams.unwrap_or(named.streams),
            window: self.window.unwrap_or(named.window),
            size: self.size.unwrap_or(named.size),
            rate: self.rate.unwrap_or(named.rate),
        };
        if shape.sockets == 0 || shape.window == 0 || shape.size == 0 {
            bail!("--sockets, --window and --size must be at least 1");
        }
        if shape.rate > 0 && (shape.streams, shape.window) != (1, 1) {
            bail!("a paced load has one stream per connection and one message in flight");
        }
        if self.dialect == Dialect::GrpcWeb && (shape.kind, shape.streams) != (Kind::Unary, 1) {
            bail!("gRPC-Web over HTTP/1.1 has unary calls only, one at a time on a connection");
        }
        let method = match (&self.method, shape.kind) {
            (Some(method), _) => method.clone(),
            (None, Kind::Echo) => "/bench.Echo/Bidi".to_owned(),
            (None, Kind::Unary) => "/bench.Echo/Unary".to_owned(),
        };
        Ok(Plan {
            target: self.target,
            shape,
            method,
            path: self.path.clone(),
            resumable: self.resumable,
            http: self.dialect == Dialect::SessionHttp,
        })
    }
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let plan = args.plan()?;
    let mut crew = Crew::new();
    for index in 0..plan.shape.sockets {
        match args.dialect {
            Dialect::Session | Dialect::SessionHttp => {
                crew.hire(session::connect(&plan, index).await?).await?
            }
            Dialect::H2 => {
                for worker in h2_calls::connect(&plan, index).await? {
                    crew.hire(worker).await?;
                }
            }
            Dialect::GrpcWeb => crew.hire(grpc_web::connect(&plan, index).await?).await?,
        }
    }
    if let Some(operations) = args.operations {
        crew.operate(operations / 10, plan.shape).await?;
        let result = crew.operate(operations, plan.shape).await?;
        return say(&serde_json::to_string(&result)?);
    }
    let mut orders = orders();
    say("ready")?;
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            failed = crew.failure() => return Err(failed),
        };
        let Some(order) = order else { return Ok(()) };
        let result = crew.operate(order?, plan.shape).await?;
        say(&serde_json::to_string(&result)?)?;
    }
}

/// All workers, and the word that starts them.
struct Crew {
    phases: watch::Sender<Option<Arc<Phase>>>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Crew {
    fn new() -> Self {
        Self { phases: watch::Sender::new(None), tasks: JoinSet::new() }
    }

    /// Takes a worker in. It has warmed up when this returns: every one of its streams is open at the service.
    async fn hire<W: Worker>(&mut self, mut worker: W) -> anyhow::Result<()> {
        let mut phases = self.phases.subscribe();
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    changed = phases.changed() => if changed.is_err() { return Ok(()) },
                    ended = worker.idle() => {
                        ended?;
                        bail!("a connection ended before its work was done");
                    }
                }
                let phase = phases.borrow_and_update().clone();
                if let Some(phase) = phase {
                    worker.work(&phase).await?;
                    phase.leave();
                }
            }
        });
        Ok(())
    }

    async fn operate(&mut self, operations: u64, shape: Shape) -> anyhow::Result<Result> {
        let phase = Arc::new(Phase::new(operations, self.tasks.len(), shape));
        self.phases.send_replace(Some(Arc::clone(&phase)));
        tokio::select! {
            () = phase.over() => Ok(phase.result()),
            failed = self.failure() => Err(failed),
        }
    }

    async fn failure(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(panic)) => panic.into(),
            Some(Ok(Ok(()))) => anyhow::anyhow!("a worker stopped working"),
            None => std::future::pending().await,
        }
    }
}

/// The lines of standard input, as numbers of operations.
fn orders() -> mpsc::Receiver<anyhow::Result<u64>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
            let order = line.strip_prefix("go ").and_then(|n| n.trim().parse().ok());
            let order = order.with_context(|| format!("expected `go NUMBER`, got {line:?}"));
            if sender.blocking_send(order).is_err() {
                return;
            }
        }
    });
    receiver
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

async fn dial(target: SocketAddr) -> anyhow::Result<TcpStream> {
    let io = TcpStream::connect(target).await.with_context(|| format!("cannot connect to {target}"))?;
    io.set_nodelay(true)?;
    Ok(io)
}
