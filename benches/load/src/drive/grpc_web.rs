//! gRPC-Web over HTTP/1.1: a request written by hand, and just enough of a parser for the answer.

use std::time::Instant;

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Plan, Worker, dial, phase};
use crate::drive::phase::Phase;

pub(super) async fn connect(plan: &Plan, index: u32) -> anyhow::Result<Connection> {
    let message = super::h2_calls::message(plan.shape.size);
    let mut request = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/grpc-web+proto\r\nx-grpc-web: 1\r\n\
         accept: application/grpc-web+proto\r\ncontent-length: {}\r\n\r\n",
        plan.method,
        plan.target,
        message.len()
    )
    .into_bytes();
    request.extend_from_slice(&message);
    let mut connection = Connection {
        io: dial(plan.target).await?,
        request,
        inbox: Vec::with_capacity(4096),
        body: Vec::new(),
        size: message.len(),
        index,
    };
    connection.work(&Phase::alone(1)).await.context("warming up")?;
    Ok(connection)
}

/// A keep-alive connection with one call at a time.
pub(super) struct Connection {
    io: TcpStream,
    request: Vec<u8>,
    inbox: Vec<u8>,
    body: Vec<u8>,
    /// Of the message with its prefix.
    size: usize,
    index: u32,
}

impl Worker for Connection {
    async fn work(&mut self, phase: &Phase) -> anyhow::Result<()> {
        let mut turn = 0;
        while phase.take() {
            let begun = phase::wait(phase.slot(self.index, turn)).await;
            turn += 1;
            self.io.write_all(&self.request).await?;
            self.inbox.clear();
            while !self.complete()? {
                let read = self.io.read_buf(&mut self.inbox).await?;
                ensure!(read > 0, "the connection ended in the middle of an answer");
            }
            self.check()?;
            phase.record(Instant::now() - begun);
        }
        Ok(())
    }
}

impl Connection {
    /// Whether the whole answer is here; its body is then in `body`.
    fn complete(&mut self) -> anyhow::Result<bool> {
        let Some(end) = find(&self.inbox, b"\r\n\r\n") else { return Ok(false) };
        let head = std::str::from_utf8(&self.inbox[..end])?;
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        ensure!(status.starts_with("HTTP/1.1 200"), "the answer is {status:?}");
        let mut length = None;
        for line in lines {
            let Some((name, value)) = line.split_once(':') else { continue };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse::<usize>()?);
            }
        }
        let rest = &self.inbox[end + 4..];
        self.body.clear();
        match length {
            Some(length) if rest.len() < length => Ok(false),
            Some(length) => {
                self.body.extend_from_slice(&rest[..length]);
                Ok(true)
            }
            None => dechunk(rest, &mut self.body),
        }
    }

    /// One message of the right size, then trailers with status 0.
    fn check(&self) -> anyhow::Result<()> {
        let Some((message, trailers)) = self.body.split_at_checked(self.size) else {
            bail!("a call was answered with {:?}", String::from_utf8_lossy(&self.inbox));
        };
        ensure!(message.first() == Some(&0), "the answer does not begin with a message");
        ensure!(trailers.first() == Some(&0x80), "the answer has no trailers");
        let text = String::from_utf8_lossy(trailers);
        ensure!(text.contains("grpc-status:0") || text.contains("grpc-status: 0"), "a call failed: {text:?}");
        Ok(())
    }
}

/// Undoes chunked transfer coding (RFC 9112, section 7.1); `false` while chunks are missing.
fn dechunk(mut rest: &[u8], body: &mut Vec<u8>) -> anyhow::Result<bool> {
    loop {
        let Some(end) = find(rest, b"\r\n") else { return Ok(false) };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end])?.trim(), 16)?;
        let chunk = &rest[end + 2..];
        if chunk.len() < size + 2 {
            return Ok(false);
        }
        if size == 0 {
            return Ok(true);
        }
        body.extend_from_slice(&chunk[..size]);
        rest = &chunk[size + 2..];
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_once_the_last_one_is_here() {
        let whole = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        for cut in 0..whole.len() {
            let mut body = Vec::new();
            assert!(!dechunk(&whole[..cut], &mut body).unwrap(), "{cut}");
        }
        let mut body = Vec::new();
        assert!(dechunk(whole, &mut body).unwrap());
        assert_eq!(body, b"abcde");
    }
}
