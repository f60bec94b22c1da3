//! A well-behaved scripted gRPC server over h2: each request goes to a function of the test.

use std::{
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server};
use http::{HeaderMap, Request, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{mpsc, watch},
};

/// A request on its way to the test's function.
pub(crate) struct Exchange {
    pub(crate) request: Request<()>,
    pub(crate) body: RecvStream,
    pub(crate) respond: server::SendResponse<Bytes>,
}

/// A running server.
#[derive(Clone)]
pub(crate) struct Scripted {
    pub(crate) url: String,
    /// Connections accepted so far.
    pub(crate) connections: Arc<AtomicUsize>,
    /// Requests accepted so far.
    pub(crate) requests: Arc<AtomicUsize>,
}

impl Scripted {
    /// Serves on a free port with h2's defaults.
    pub(crate) async fn start<F>(script: impl Fn(Exchange) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with(server::Builder::new(), script).await
    }

    /// Serves on a free port.
    pub(crate) async fn with<F>(
        builder: server::Builder,
        script: impl Fn(Exchange) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), builder, script)
    }

    /// Serves on this port.
    pub(crate) fn on<F>(
        listener: TcpListener,
        builder: server::Builder,
        script: impl Fn(Exchange) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let scripted = Self { url, connections: Arc::default(), requests: Arc::default() };
        let Self { connections, requests, .. } = scripted.clone();
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                io.set_nodelay(true).unwrap();
                connections.fetch_add(1, SeqCst);
                tokio::spawn(serve(io, builder.clone(), script.clone(), requests.clone()));
            }
        });
        scripted
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

/// Serves one connection, whatever it runs on.
pub(crate) async fn serve<F>(
    io: impl AsyncRead + AsyncWrite + Unpin + Send,
    builder: server::Builder,
    script: impl Fn(Exchange) -> F,
    requests: Arc<AtomicUsize>,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = builder.handshake(io).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        requests.fetch_add(1, SeqCst);
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, ());
        tokio::spawn(script(Exchange { request, body, respond }));
    }
}

impl Exchange {
    /// Sends the response's headers.
    pub(crate) fn headers(&mut self) -> SendStream<Bytes> {
        let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        self.respond.send_response(response, false).unwrap()
    }

    /// The next bytes of the request; `None` at its end or when it was reset.
    pub(crate) async fn read(&mut self) -> Option<Bytes> {
        let bytes = self.body.data().await?.ok()?;
        let _ = self.body.flow_control().release_capacity(bytes.len());
        Some(bytes)
    }

    /// The whole request.
    pub(crate) async fn read_all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = self.read().await {
            all.extend_from_slice(&bytes);
        }
        all
    }
}

/// Sends within the client's window.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let Some(Ok(may)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
        stream.send_data(bytes.split_to(may.min(bytes.len())), false).unwrap();
    }
}

/// Ends a response with a status.
pub(crate) fn end(stream: &mut SendStream<Bytes>, code: u32) {
    end_with(stream, code, &[]);
}

/// Sends trailers with this code and these fields.
pub(crate) fn end_with(stream: &mut SendStream<Bytes>, code: u32, fields: &[(&'static str, &str)]) {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    for (name, value) in fields {
        trailers.append(*name, value.parse().unwrap());
    }
    let _ = stream.send_trailers(trailers);
}

/// A service whose calls last until they are cancelled, and that tells what it sees.
pub(crate) struct Waiting {
    pub(crate) server: Scripted,
    /// One for each call that has begun.
    pub(crate) begun: mpsc::Receiver<()>,
    /// One for each call that is over: how it was reset.
    pub(crate) over: mpsc::Receiver<Result<Reason, h2::Error>>,
}

impl Waiting {
    /// `reads`: whether it reads its requests; otherwise their window fills up.
    pub(crate) async fn start(reads: bool) -> Self {
        let ((begin, begun), (end, over)) = (mpsc::channel(1000), mpsc::channel(1000));
        let server = Scripted::start(move |mut exchange| {
            let (begin, end) = (begin.clone(), end.clone());
            async move {
                let mut stream = exchange.headers();
                let _ = begin.try_send(());
                let reset = poll_fn(|cx| {
                    while reads && let Poll::Ready(Some(Ok(bytes))) = exchange.body.poll_data(cx) {
                        let _ = exchange.body.flow_control().release_capacity(bytes.len());
                    }
                    stream.poll_reset(cx)
                });
                let _ = end.try_send(reset.await);
            }
        })
        .await;
        Self { server, begun, over }
    }

    /// Waits until so many calls have begun.
    pub(crate) async fn begun(&mut self, calls: usize) {
        for _ in 0..calls {
            self.begun.recv().await.unwrap();
        }
    }

    /// Asserts that so many calls are cancelled within a second.
    pub(crate) async fn cancelled(&mut self, calls: usize) {
        super::within(1, async {
            for _ in 0..calls {
                let reset = self.over.recv().await.unwrap();
                assert_eq!(reset.unwrap(), Reason::CANCEL);
            }
        })
        .await;
    }
}

/// A service that echoes, except for methods named `Flood`: these send messages of 1,000 bytes without end.
pub(crate) struct Flooding {
    pub(crate) server: Scripted,
    /// Bytes that were sent within the client's windows.
    sent: Arc<AtomicUsize>,
    /// Floods that were reset.
    ended: watch::Sender<usize>,
}

impl Flooding {
    pub(crate) async fn start() -> Self {
        let sent = Arc::<AtomicUsize>::default();
        let ended = watch::Sender::new(0);
        let counters = (sent.clone(), ended.clone());
        let server = Scripted::start(move |exchange| {
            let (sent, ended) = counters.clone();
            async move {
                if exchange.request.uri().path().ends_with("Flood") {
                    flood(exchange, &sent).await;
                    ended.send_modify(|ended| *ended += 1);
                } else {
                    echo(exchange).await;
                }
            }
        })
        .await;
        Self { server, sent, ended }
    }

    /// Waits until so many floods were reset.
    pub(crate) async fn ended(&self, floods: usize) {
        self.ended.subscribe().wait_for(|ended| *ended == floods).await.unwrap();
    }

    pub(crate) fn sent(&self) -> usize {
        self.sent.load(SeqCst)
    }
}

async fn flood(mut exchange: Exchange, sent: &AtomicUsize) {
    let mut stream = exchange.headers();
    let whole = message(&[7; 1000]);
    let mut rest = whole.clone();
    loop {
        stream.reserve_capacity(rest.len());
        let Some(Ok(may)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
        let piece = rest.split_to(may.min(rest.len()));
        sent.fetch_add(piece.len(), SeqCst);
        if stream.send_data(piece, false).is_err() {
            return;
        }
        if rest.is_empty() {
            rest = whole.clone();
        }
    }
}

/// Echoes the request's bytes as they come, then ends with OK.
pub(crate) async fn echo(mut exchange: Exchange) {
    let mut stream = exchange.headers();
    while let Some(bytes) = exchange.read().await {
        send(&mut stream, bytes).await;
    }
    end(&mut stream, 0);
}

/// One uncompressed gRPC message.
pub(crate) fn message(payload: &[u8]) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes.into()
}
