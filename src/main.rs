//! The command line: the only file that prints, and the one that ends the process.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the command line talks to people")]

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use bidiway::{
    config::{self, Config, Question},
    demo::{Demo, Options},
    schema::Descriptors,
    server::{
        self, Server,
        reload::{Files, Loaded, Watcher},
    },
    telemetry::{Metrics, log},
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A command line or configuration that cannot be used (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

/// Gives browsers the whole of gRPC: an edge proxy for unary, client, server and bidirectional streaming.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Examples:
  bidiway demo                                      a page to play with, services included
  bidiway serve --upstream http://localhost:50051   in front of a gRPC server, no file needed
  bidiway serve --config bidiway.yaml
  bidiway describe --upstream http://localhost:50051   what a gRPC server offers
  bidiway check bidiway.yaml                        every problem at once, with line and column

Exit status: 0 after a graceful stop, 64 for a command line or configuration that cannot be used, 1 for any other failure."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Args)]
struct LogArgs {
    /// What to log: error, warn, info, debug, trace, off, or directives such as info,call=off. Goes before the
    /// configuration's.
    #[arg(long = "log", global = true, value_name = "LEVEL", env = "BIDIWAY_LOG")]
    filter: Option<String>,
    /// How log lines look. Goes before the configuration's.
    #[arg(long = "log-format", global = true, env = "BIDIWAY_LOG_FORMAT")]
    format: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy.
    #[command(after_help = "\
Examples:
  bidiway serve --config bidiway.yaml
  bidiway serve --upstream http://localhost:50051
  bidiway serve --upstream https://grpc.example.com --listen 0.0.0.0:8080 --origin https://app.example.com

SIGTERM or SIGINT drains: open calls may finish until the drain deadline. A second signal ends them at once.
SIGHUP reads the configuration and all files that it names again; so does a change of any of them.")]
    Serve(ServeArgs),
    /// Check a configuration file, and the certificates that it names; bind nothing. Or show which route a call takes.
    #[command(after_help = "\
Examples:
  bidiway check bidiway.yaml
  bidiway check bidiway.yaml --method /chat.v1.Chat/Talk
  bidiway check bidiway.yaml --method /chat.v1.Chat/Talk --host app.example.com --metadata x-canary=1")]
    Check(CheckArgs),
    /// Print the JSON Schema of the configuration file, for editors.
    Schema,
    /// Show services, methods and messages of a running gRPC server or of a file.
    #[command(after_help = "\
Examples:
  bidiway describe --upstream http://localhost:50051                       every service with its methods
  bidiway describe --upstream http://localhost:50051 chat.v1.Chat/Talk     a method with its messages
  bidiway describe --config bidiway.yaml --name chat chat.v1.ChatMessage   as the proxy sees it
  bidiway describe --file chat.binpb
  bidiway describe --file proto/chat.proto")]
    Describe(DescribeArgs),
    /// Run gRPC services, the proxy before them, and a page to play with.
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The file.
    file: PathBuf,
    /// Show which route calls of this method take, and why.
    #[arg(long, value_name = "/PACKAGE.SERVICE/METHOD")]
    method: Option<String>,
    /// With --method: the host under which the client reaches the proxy. Left out: one that no route names.
    #[arg(long, value_name = "HOST", requires = "method")]
    host: Option<String>,
    /// With --method: an entry of the call's metadata. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", requires = "method")]
    metadata: Vec<String>,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", env = "BIDIWAY_CONFIG", required_unless_present = "upstream")]
    config: Option<PathBuf>,
    /// Instead of a file: the gRPC server that gets every call. http://HOST:PORT, https://HOST:PORT or unix:/PATH.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    upstream: Option<String>,
    /// With --upstream: where to listen.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = config::listen_address)]
    #[arg(conflicts_with = "config")]
    listen: SocketAddr,
    /// With --upstream: an origin whose pages may call, besides the proxy's own. May be repeated; "*" for any.
    #[arg(long = "origin", value_name = "ORIGIN", conflicts_with = "config")]
    origins: Vec<String>,
    /// With --upstream: where to serve /healthz, /readyz and /metrics.
    #[arg(long, value_name = "ADDR", value_parser = config::listen_address, conflicts_with = "config")]
    admin: Option<SocketAddr>,
}

#[derive(Debug, Args)]
struct DescribeArgs {
    /// A service, method, message, enum or extension, by its full name. Left out: every service.
    symbol: Option<String>,
    /// A gRPC server with reflection. http://HOST:PORT, https://HOST:PORT or unix:/PATH.
    #[arg(long, value_name = "URL", group = "from")]
    upstream: Option<String>,
    /// The upstreams of this configuration.
    #[arg(long, short, value_name = "FILE", env = "BIDIWAY_CONFIG", group = "from")]
    config: Option<PathBuf>,
    /// A descriptor set, or a .proto file.
    #[arg(long, short, value_name = "FILE", group = "from")]
    file: Option<PathBuf>,
    /// With --config: one upstream only.
    #[arg(long, value_name = "UPSTREAM", requires = "config")]
    name: Option<String>,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// The page and the proxy, cleartext. Port 0 takes a free one, here and below.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = config::listen_address)]
    #[arg(alias = "listen")]
    http: SocketAddr,
    /// The same with TLS and a certificate made on the spot.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443", value_parser = config::listen_address)]
    https: SocketAddr,
    /// Health and metrics.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9901", value_parser = config::listen_address)]
    admin: SocketAddr,
    /// The gRPC services themselves.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", value_parser = config::listen_address)]
    services: SocketAddr,
}

/// Why the process ends early.
enum Failure {
    /// The command line or the configuration cannot be used.
    Usage(String),
    /// Something else, said in full.
    Runtime(String),
    /// Anything else.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and go to standard output.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => {
            eprintln!("{text}");
            ExitCode::from(USAGE)
        }
        Err(Failure::Runtime(text)) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
        Err(Failure::Other(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Check(args) => check(args),
        Command::Schema => {
            print!("{}", config::schema());
            Ok(())
        }
        Command::Serve(args) => serve(args, &cli.log),
        Command::Describe(args) => describe(args, &cli.log),
        Command::Demo(args) => demo(args, &cli.log),
    }
}

fn load(file: &Path, files: &mut Files) -> Result<Config, Failure> {
    Config::load_noting(file, files).map_err(|error| {
        let count = error.count();
        let problems = if count == 1 { "problem" } else { "problems" };
        Failure::Usage(format!("{error}\n{count} {problems}; see docs/configuration.md"))
    })
}

fn check(args: CheckArgs) -> Result<(), Failure> {
    let CheckArgs { file, method, host, metadata } = args;
    let config = load(&file, &mut Files::default())?;
    if let Some(method) = method {
        let text = config.explain(&Question { method, host, metadata });
        print!("{}", text.map_err(|error| Failure::Usage(format!("error: {error}")))?);
        return Ok(());
    }
    let settings = config.settings;
    println!(
        "{} is valid: listeners {}, upstreams {}, routes {}",
        file.display(),
        settings.listeners.len(),
        settings.upstreams.len(),
        settings.downstream.routes.len()
    );
    Ok(())
}

fn serve(args: ServeArgs, log: &LogArgs) -> Result<(), Failure> {
    let mut files = Files::default();
    let config = match (&args.config, &args.upstream) {
        (Some(file), _) => load(file, &mut files)?,
        (None, Some(url)) => Config::for_upstream(url, args.listen, args.admin, &args.origins)
            .map_err(|error| Failure::Usage(format!("error: {error}")))?,
        (None, None) => return Err(Failure::Usage("error: give --config FILE or --upstream URL".into())),
    };
    start_log(log, config.log.format, &config.log.filter)?;
    log::sample_ok(config.log.sample_ok);
    let (every, format) = (config.reload, config.log.format);
    let tls: Vec<bool> = config.settings.listeners.iter().map(|listener| listener.tls.is_some()).collect();
    let server = Server::bind(config.settings).map_err(anyhow::Error::from)?;
    runtime()?.block_on(async {
        // Before the addresses are printed: who reads them may send a signal at once.
        let mut signals = Signals::new()?;
        let mut hangup = Signals::hangup()?;
        for (address, tls) in server.addresses().iter().zip(tls) {
            println!("listening on {}://{address}", if tls { "https" } else { "http" });
        }
        if let Some(address) = server.admin_address() {
            println!("admin on http://{address}");
        }
        let watcher = args.config.map(|file| {
            let own_filter = log.filter.is_some();
            Watcher::new(server.reloader(), files, every, move || reread(&file, own_filter, format))
        });
        let asked = watcher.as_ref().map(Watcher::asked);
        let hangups = async {
            while hangup.recv().await.is_some() {
                match &asked {
                    Some(asked) => asked.notify_one(),
                    None => tracing::info!("SIGHUP: there is no configuration file to read again"),
                }
            }
            std::future::pending().await
        };
        let watching = async {
            if let Some(watcher) = watcher {
                watcher.run().await;
            }
            std::future::pending().await
        };
        let cut = server.cut();
        let (begin, drain) = tokio::sync::oneshot::channel();
        let signals = async move {
            signals.next().await;
            let _ = begin.send(());
            signals.next().await;
            cut.cancel();
            std::future::pending().await
        };
        let drain = async {
            let _ = drain.await;
        };
        tokio::select! {
            () = server.serve(drain) => Ok(()),
            never = signals => never,
            never = hangups => never,
            never = watching => never,
        }
    })
}

/// The configuration as it is now. With `own_filter`, the command line has said what to log, and that goes before.
fn reread(file: &Path, own_filter: bool, format: log::Format) -> Loaded {
    let mut files = Files::default();
    let config = Config::load_noting(file, &mut files);
    let every = config.as_ref().ok().and_then(|config| config.reload);
    let format_differs = config.as_ref().is_ok_and(|config| config.log.format != format);
    let restart_needed = if format_differs { vec!["log.format"] } else { Vec::new() };
    let settings = config.map_err(|error| error.to_string()).and_then(|config| {
        if !own_filter {
            log::set_filter(&config.log.filter)?;
        }
        log::sample_ok(config.log.sample_ok);
        Ok(config.settings)
    });
    Loaded { settings, files, every, restart_needed }
}

fn describe(args: DescribeArgs, log: &LogArgs) -> Result<(), Failure> {
    start_log(log, log::Format::Text, "warn")?;
    let DescribeArgs { symbol, upstream, config, file, name } = args;
    if let Some(file) = file {
        let text = describe_file(&file, symbol.as_deref()).map_err(Failure::Usage)?;
        print!("{text}");
        return Ok(());
    }
    let settings = match (upstream, config) {
        (Some(url), _) => Config::for_upstream(&url, SocketAddr::from(([127, 0, 0, 1], 0)), None, &[]),
        (None, Some(config)) => Config::load(&config),
        (None, None) => {
            let text = "error: say what to describe: --upstream URL, --config FILE or --file FILE";
            return Err(Failure::Usage(text.into()));
        }
    };
    let settings = settings.map_err(|error| Failure::Usage(error.to_string()))?.settings;
    runtime()?.block_on(async {
        let metrics = Metrics::new();
        let all = server::schemas(&settings, &server::rosters(&settings, None, &metrics), &metrics);
        let mut schemas: Vec<_> = all.into_iter().collect();
        if schemas.is_empty() {
            return Err(Failure::Usage("error: no upstream of this configuration has a schema".into()));
        }
        schemas.sort_by(|(a, _), (b, _)| a.cmp(b));
        if let Some(name) = &name {
            let names: Vec<_> = schemas.iter().map(|(name, _)| name.clone()).collect();
            schemas.retain(|(candidate, _)| candidate == name);
            if schemas.is_empty() {
                let text = format!(
                    "error: there is no upstream {name:?} with a schema; there are: {}",
                    names.join(", ")
                );
                return Err(Failure::Usage(text));
            }
        }
        let several = schemas.len() > 1;
        let mut errors = Vec::new();
        let mut shown = false;
        for (name, schema) in schemas {
            let text = match &symbol {
                Some(symbol) => schema.describe(symbol).await,
                None => schema.overview().await,
            };
            match text {
                Ok(text) if several => {
                    println!("{}// upstream {name}\n{text}", if shown { "\n" } else { "" });
                    shown = true;
                }
                Ok(text) => {
                    print!("{text}");
                    shown = true;
                }
                Err(error) => errors.push(error),
            }
            // A name is the same wherever it is found.
            if shown && symbol.is_some() {
                return Ok(());
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        let errors: Vec<_> = errors.iter().map(|error| format!("error: {error}")).collect();
        Err(Failure::Runtime(errors.join("\n")))
    })
}

fn describe_file(file: &Path, symbol: Option<&str>) -> Result<String, String> {
    let is_proto = file.extension().is_some_and(|extension| extension == "proto");
    let read =
        if is_proto { Descriptors::compile(&[file.to_path_buf()], &[]) } else { Descriptors::read_set(file) };
    let descriptors = read.map_err(|error| format!("error: {}: {error}", file.display()))?;
    match symbol {
        Some(symbol) => descriptors
            .describe(symbol)
            .ok_or_else(|| format!("error: {} has nothing named {symbol:?}", file.display())),
        None => {
            let texts = descriptors
                .services()
                .iter()
                .filter_map(|name| descriptors.describe(name))
                .collect::<Vec<_>>();
            Ok(texts.join("\n"))
        }
    }
}

fn demo(args: DemoArgs, log: &LogArgs) -> Result<(), Failure> {
    start_log(log, log::Format::Text, "warn")?;
    let options = Options {
        http: args.http,
        https: Some(args.https),
        admin: Some(args.admin),
        services: args.services,
        ..Options::default()
    };
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let demo = Demo::start(options).await.map_err(anyhow::Error::from)?;
        println!("{demo}");
        let (begin, drain) = tokio::sync::oneshot::channel();
        let twice = async move {
            signals.next().await;
            let _ = begin.send(());
            signals.next().await;
        };
        let drain = async {
            let _ = drain.await;
        };
        tokio::select! {
            () = demo.serve(drain) => {}
            () = twice => {}
        }
        Ok(())
    })
}

/// The main thread's runtime: the admin port and the signals, and with one worker the proxy.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

fn start_log(args: &LogArgs, format: log::Format, filter: &str) -> Result<(), Failure> {
    let format = match args.format {
        None => format,
        Some(LogFormat::Text) => log::Format::Text,
        Some(LogFormat::Json) => log::Format::Json,
    };
    let filter = args.filter.as_deref().unwrap_or(filter);
    log::init(format, filter).map_err(|error| Failure::Usage(format!("error: {error}")))
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| -> io::Result<Signal> { signal(kind) };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt()).context("cannot wait for SIGINT")?,
            terminate: listen(SignalKind::terminate()).context("cannot wait for SIGTERM")?,
        })
    }

    /// SIGHUP. To be listened to even where it means nothing: by default it kills.
    fn hangup() -> anyhow::Result<Signal> {
        signal(SignalKind::hangup()).context("cannot wait for SIGHUP")
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
