//! One message of HTTP/1.1 or of TTLV (KMIP), whole. TTLV is known by its first byte, with which no HTTP method begins.

use std::io::{self, BufRead, ErrorKind, Read};

/// First byte of KMIP's tags; B, in ASCII.
const TTLV: u8 = 0x42;
const TTLV_HEAD: usize = 8;

/// What a client asks.
pub struct Request(Message);

/// What it is answered.
pub struct Reply(Message);

struct Message {
    /// HTTP's first line and headers but those that frame the body, each with its end. Empty for TTLV.
    head: String,
    body: Vec<u8>,
}

impl Request {
    /// The next one; none where the client has closed the connection.
    pub(super) fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        match from.fill_buf()?.first() {
            None => Ok(None),
            Some(&TTLV) => ttlv(from).map(|message| Some(Self(message))),
            Some(_) => http(from, true).map(|message| Some(Self(message))),
        }
    }

    /// HTTP's first line, such as `POST /v1/keys HTTP/1.1`, and headers.
    #[must_use]
    pub fn head(&self) -> &str {
        &self.0.head
    }

    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.0.body
    }

    pub(super) fn is_http(&self) -> bool {
        !self.0.head.is_empty()
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }
}

impl Reply {
    /// Of HTTP, with the head's lines as they are.
    pub(super) fn new(head: String, body: Vec<u8>) -> Self {
        Self(Message { head, body })
    }

    pub(super) fn read(from: &mut impl BufRead, request: &Request) -> io::Result<Self> {
        let message = if request.is_http() {
            http(from, false)
        } else {
            ttlv(from)
        };
        message.map(Self)
    }

    /// The beginning of an answer that announces so many bytes.
    pub(super) fn endless_head(request: &Request, length: usize) -> Vec<u8> {
        if request.is_http() {
            let kind = "content-type: application/json";
            return format!("HTTP/1.1 200 OK\r\n{kind}\r\ncontent-length: {length}\r\n\r\n").into();
        }
        // A response message, which is a structure.
        let mut head = vec![TTLV, 0x00, 0x7b, 0x01];
        head.extend_from_slice(&u32::try_from(length).expect("fits").to_be_bytes());
        head
    }

    /// HTTP's first line and headers.
    pub fn head_mut(&mut self) -> &mut String {
        &mut self.0.head
    }

    pub fn body_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0.body
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }

    /// Half the length of the body.
    pub(super) fn half(&self) -> usize {
        self.0.body.len().div_ceil(2)
    }

    /// Whether the server closes the connection after it.
    pub(super) fn is_last(&self) -> bool {
        let mut lines = self.0.head.lines();
        lines.any(|line| line.eq_ignore_ascii_case("connection: close"))
    }
}

impl Message {
    fn to_bytes(&self) -> Vec<u8> {
        if self.head.is_empty() {
            return self.body.clone();
        }
        let head = format!("{}content-length: {}\r\n\r\n", self.head, self.body.len());
        [head.as_bytes(), &self.body].concat()
    }
}

fn ttlv(from: &mut impl Read) -> io::Result<Message> {
    let mut body = vec![0; TTLV_HEAD];
    from.read_exact(&mut body)?;
    let length = [body[4], body[5], body[6], body[7]].map(usize::from);
    let length = length.iter().fold(0, |all, byte| all << 8 | byte);
    body.resize(TTLV_HEAD + length, 0);
    from.read_exact(&mut body[TTLV_HEAD..])?;
    Ok(Message {
        head: String::new(),
        body,
    })
}

fn http(from: &mut impl BufRead, request: bool) -> io::Result<Message> {
    let mut head = String::new();
    let mut length = None;
    let mut chunked = false;
    loop {
        let line = line(from)?;
        if line == "\r\n" {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = true;
        } else {
            head += &line;
        }
    }
    let bare = request || head.contains(" 204 ") || head.contains(" 304 ");
    let mut body = Vec::new();
    match length {
        _ if chunked => read_chunks(from, &mut body)?,
        Some(length) => {
            body.resize(length, 0);
            from.read_exact(&mut body)?;
        }
        None if bare => {}
        None => {
            from.read_to_end(&mut body)?;
            head += "connection: close\r\n";
        }
    }
    Ok(Message { head, body })
}

fn read_chunks(from: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let size = line(from)?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
        let start = body.len();
        body.resize(start + size, 0);
        from.read_exact(&mut body[start..])?;
        // The chunk's own end; after the last one the body's. Nobody here sends trailers.
        line(from)?;
        if size == 0 {
            return Ok(());
        }
    }
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(line)
}
