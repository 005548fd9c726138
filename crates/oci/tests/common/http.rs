//! As much HTTP/1.1 as a test needs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Sends a request to a server on this machine.
pub fn request(host: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(host).expect("connected");
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).expect("sent");
    stream.write_all(body).expect("sent");
    let mut reader = BufReader::new(stream);
    let (first, headers) = head_of(&mut reader).expect("an answer");
    reader.read_to_end(&mut Vec::new()).expect("an answer");
    let status = first.split(' ').nth(1).and_then(|s| s.parse().ok());
    Answer {
        status: status.expect("a status"),
        headers,
    }
}

/// The first line and the headers of a request or an answer; nothing at the end of a connection.
pub fn head_of(reader: &mut impl BufRead) -> Option<(String, Vec<(String, String)>)> {
    let mut line = || {
        let mut text = String::new();
        let read = reader.read_line(&mut text).ok()?;
        (read > 0).then(|| text.trim_end().to_owned())
    };
    let first = line()?;
    let mut headers = Vec::new();
    while let Some(header) = line().filter(|l| !l.is_empty()) {
        let (name, value) = header.split_once(':').expect("a header");
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    Some((first, headers))
}
