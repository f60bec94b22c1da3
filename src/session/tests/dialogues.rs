//! The dialogues of docs/protocol.md, held in real conversations: the bytes in the document are the bytes that two
//! sides exchange.

use super::*;
use crate::{
    session::Refusal,
    wire::{Code, v1::ResumeFailure},
};

/// Who speaks (`>` the client, `<` the proxy) and one packet.
type Line = (char, Vec<u8>);

struct Dialogue {
    pair: Pair,
    lines: Vec<Line>,
}

impl Dialogue {
    fn new() -> Self {
        let client = Settings { agent: "doc/1".into(), stream_credit: 65_536, ..Settings::default() };
        let proxy = Settings {
            stream_credit: 262_144,
            max_message: 4 << 20,
            session_id: "s1".into(),
            ..Settings::default()
        };
        Self { pair: Pair::with(client, proxy), lines: Vec::new() }
    }

    /// One with the greetings behind it.
    fn greeted() -> Self {
        let mut dialogue = Self::new();
        dialogue.up();
        dialogue.down();
        dialogue.lines.clear();
        dialogue
    }

    /// One whose session can be resumed.
    fn resumable() -> Self {
        let mut dialogue = Self::new();
        let settings =
            Settings { agent: "doc/1".into(), stream_credit: 65_536, resumable: true, ..Settings::default() };
        dialogue.pair.client = Session::new(Side::Client, settings, dialogue.pair.now);
        dialogue.pair.proxy.announce_resume(Bytes::from_static(b"t1"));
        dialogue
    }

    /// A packet that does not arrive.
    fn lost(&mut self, who: char) {
        let session = if who == '>' { &mut self.pair.client } else { &mut self.pair.proxy };
        let mut packet = BytesMut::new();
        assert!(session.poll_packet(&mut packet, usize::MAX), "there is something to lose");
        self.lines.push((who, packet.to_vec()));
    }

    /// What the client has to say goes to the proxy.
    fn up(&mut self) {
        let mut packet = BytesMut::new();
        assert!(self.pair.client.poll_packet(&mut packet, usize::MAX), "the client has something to say");
        self.raw(packet.freeze());
        while self.pair.client.poll_event().is_some() {}
    }

    /// A packet of a client that is not ours.
    fn raw(&mut self, packet: Bytes) {
        self.lines.push(('>', packet.to_vec()));
        self.pair.proxy.handle_packet(packet, self.pair.now);
        while self.pair.proxy.poll_event().is_some() {}
    }

    fn down(&mut self) {
        let mut packet = BytesMut::new();
        assert!(self.pair.proxy.poll_packet(&mut packet, usize::MAX), "the proxy has something to say");
        self.lines.push(('<', packet.to_vec()));
        self.pair.client.handle_packet(packet.freeze(), self.pair.now);
        while self.pair.client.poll_event().is_some() {}
    }
}

fn unary() -> Vec<Line> {
    let mut d = Dialogue::new();
    let call = v1::Open {
        metadata: vec![text("x-user", "ada")],
        timeout_ms: 5000,
        ..open("/demo.v1.Greeter/Hello")
    };
    let stream = d.pair.client.open(call).expect("room");
    d.pair.client.send(stream, Bytes::from_static(b"\x0a\x03Ada"), 0, true);
    d.up();
    d.down();
    d.pair.proxy.send_headers(stream, v1::Headers { metadata: vec![text("served-by", "a1")] });
    d.pair.proxy.send(stream, Bytes::from_static(b"\x0a\x09Hello Ada"), 0, false);
    d.pair.proxy.end(stream, trailers(0));
    d.down();
    d.lines
}

fn bidi() -> Vec<Line> {
    let mut d = Dialogue::greeted();
    let stream = d.pair.client.open(open("/demo.v1.Chat/Talk")).expect("room");
    d.up();
    d.pair.proxy.send_headers(stream, v1::Headers::default());
    d.down();
    d.pair.client.send(stream, Bytes::from_static(b"one"), 0, false);
    d.up();
    d.pair.proxy.send(stream, Bytes::from_static(b"ONE"), 0, false);
    d.down();
    d.pair.client.send(stream, Bytes::new(), 0, false);
    d.up();
    d.pair.client.finish(stream);
    d.up();
    d.pair.proxy.end(stream, trailers(0));
    d.down();
    d.lines
}

fn pieces() -> Vec<Line> {
    let mut d = Dialogue::greeted();
    let stream = d.pair.client.open(open("/a.B/C")).expect("room");
    d.pair.client.send(stream, Bytes::from_static(b"hel"), 2, false);
    d.up();
    d.pair.client.send(stream, Bytes::from_static(b"lo"), 0, false);
    d.up();
    d.lines
}

fn cancel() -> Vec<Line> {
    let mut d = Dialogue::greeted();
    let stream = d.pair.client.open(open("/a.B/C")).expect("room");
    d.up();
    d.pair.client.cancel(stream);
    d.up();
    d.lines
}

fn credit_and_ping() -> Vec<Line> {
    let mut d = Dialogue::greeted();
    let stream = d.pair.client.open(open("/a.B/C")).expect("room");
    d.up();
    for _ in 0..3 {
        d.pair.proxy.send(stream, vec![0; 16_000].into(), 0, false);
        d.down();
    }
    d.lines.clear();
    d.pair.client.consumed(stream, 48_000, 3);
    d.up();
    d.pair.proxy.handle_timeout(d.pair.now + Duration::from_secs(20));
    d.down();
    d.up();
    d.lines
}

fn refusal() -> Vec<Line> {
    let mut d = Dialogue::greeted();
    d.pair.client.open(open("/a.B/C")).expect("room");
    d.up();
    d.lines.clear();
    let mut packet = BytesMut::new();
    frame::encode(&Frame { stream: 1, kind: data(b"x", 4 << 20) }, &mut packet);
    d.raw(packet.freeze());
    d.down();
    d.lines
}

fn go_away() -> Vec<Line> {
    let mut d = Dialogue::greeted();
    d.pair.client.open(open("/a.B/C")).expect("room");
    d.up();
    d.pair.proxy.go_away(Code::UNAVAILABLE, "restart", 1500);
    d.pair.client.open(open("/a.B/C")).expect("room");
    d.up();
    d.down();
    d.pair.proxy.end(1, trailers(0));
    d.down();
    d.lines
}

fn resumed() -> Vec<Line> {
    let mut d = Dialogue::resumable();
    let stream = d.pair.client.open(open("/demo.v1.Chat/Talk")).expect("room");
    d.pair.client.send(stream, Bytes::from_static(b"one"), 0, false);
    d.up();
    d.down();
    d.pair.proxy.send_headers(stream, v1::Headers::default());
    d.pair.proxy.send(stream, Bytes::from_static(b"ONE"), 0, false);
    d.lost('<');
    d.pair.client.send(stream, Bytes::from_static(b"two"), 0, false);
    d.lost('>');
    d.pair.cut();
    let (_, hello) = d.pair.ask();
    let mut packet = BytesMut::new();
    frame::encode(&Frame { stream: 0, kind: FrameKind::Hello(Box::new(hello.clone())) }, &mut packet);
    d.lines.push(('>', packet.to_vec()));
    d.pair.proxy.attach(hello, Bytes::from_static(b"t2"), d.pair.now).expect("a good Hello");
    d.down();
    d.up();
    d.lines
}

fn not_resumed() -> Vec<Line> {
    let mut d = Dialogue::resumable();
    d.up();
    d.down();
    d.lines.clear();
    d.pair.cut();
    let (_, hello) = d.pair.ask();
    let settings = Settings { session_id: "s2".into(), ..Settings::default() };
    d.pair.proxy = Session::new(Side::Proxy, settings, d.pair.now);
    d.pair.proxy.announce_resume(Bytes::from_static(b"t3"));
    let mut packet = BytesMut::new();
    frame::encode(&Frame { stream: 0, kind: FrameKind::Hello(Box::new(hello)) }, &mut packet);
    d.raw(packet.freeze());
    d.pair.proxy.refuse_resume(Refusal::Failure(ResumeFailure::Expired), d.pair.now);
    d.down();
    d.lines
}

fn all() -> Vec<Vec<Line>> {
    vec![
        unary(),
        bidi(),
        pieces(),
        cancel(),
        credit_and_ping(),
        refusal(),
        go_away(),
        resumed(),
        not_resumed(),
    ]
}

/// The packets in the document's `hex` blocks, one list for each block.
fn documented(docs: &str) -> Vec<Vec<Line>> {
    let mut blocks = Vec::new();
    let mut inside = false;
    for line in docs.lines() {
        match line {
            "```hex" => {
                inside = true;
                blocks.push(Vec::<Line>::new());
            }
            "```" => inside = false,
            _ if inside => {
                let block = blocks.last_mut().expect("inside a block");
                let (bytes, _comment) = line.split_once('#').unwrap_or((line, ""));
                if let Some(who) = bytes.chars().next().filter(|c| "<>".contains(*c)) {
                    block.push((who, Vec::new()));
                }
                let packet = &mut block.last_mut().expect("a block begins with who speaks").1;
                for byte in bytes.trim_start_matches(['<', '>']).split_whitespace() {
                    packet.push(u8::from_str_radix(byte, 16).expect("two hexadecimal digits"));
                }
            }
            _ => {}
        }
    }
    blocks
}

/// A block as it should stand in the document: one frame a line.
fn block(lines: &[Line]) -> String {
    let mut out = String::from("```hex\n");
    for (who, packet) in lines {
        let mut who = *who;
        let mut rest = &packet[..];
        while !rest.is_empty() {
            let (len, head) = match rest[1] {
                short @ 0..0x80 => (usize::from(short), 2),
                low => (usize::from(low & 0x7f) | usize::from(rest[2]) << 7, 3),
            };
            let (frame, after) = rest.split_at(head + len);
            let hex: Vec<_> = frame.iter().map(|b| format!("{b:02x}")).collect();
            let kind = decode(Bytes::copy_from_slice(frame)).remove(0);
            for (n, row) in hex.chunks(24).enumerate() {
                let note = if n == 0 {
                    format!("  # stream {}: {:?}", kind.stream, kind.kind)
                } else {
                    String::new()
                };
                out.push_str(&format!("{who} {}{note}\n", row.join(" ")));
                who = ' ';
            }
            rest = after;
        }
    }
    out + "```\n"
}

#[test]
fn the_documents_dialogues_are_real() {
    let docs = documented(include_str!("../../../docs/protocol.md"));
    let real = all();
    for (n, lines) in real.iter().enumerate() {
        assert_eq!(docs.get(n), Some(lines), "dialogue {}; it should be\n{}", n + 1, block(lines));
    }
    assert_eq!(docs.len(), real.len());
}

#[test]
#[ignore = "prints the blocks for the document"]
fn print_the_dialogues() {
    for lines in all() {
        println!("{}", block(&lines));
    }
}
