//! Callers that wait for `100 Continue` before they send a body (RFC 9110, section 10.1.1).

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::world::{Answer, PATIENCE, World};

/// Sends a head that expects to be asked, and reads until the gateway closes.
async fn refused(world: &World, line: &str, headers: &[&str]) -> Answer {
    let mut head = format!("{line} HTTP/1.1\r\nhost: gw\r\nexpect: 100-continue\r\n");
    for header in headers {
        head.push_str(&format!("{header}\r\n"));
    }
    let text = world.raw(format!("{head}\r\n").as_bytes()).await;
    assert!(!text.contains("100 Continue"), "{line}: {text}");
    Answer::parse(&text)
}

#[tokio::test]
async fn who_is_refused_is_not_asked_for_a_body() {
    let world = World::start().await;
    let key = world.bearer();
    for (line, headers, status) in [
        ("POST /v1/embeddings", &["content-length: 2"][..], 401),
        (
            "POST /v1/embeddings",
            &[&key, "content-length: 33554433"],
            413,
        ),
        ("POST /v1/nothing", &[&key, "content-length: 2"], 404),
        ("PUT /http/none/x/y", &[&key, "content-length: 2"], 404),
        (
            "PUT /http/none/x/y",
            &[&key, "transfer-encoding: chunked"],
            404,
        ),
    ] {
        let answer = refused(&world, line, headers).await;
        assert_eq!(answer.status, status, "{line}");
        assert_eq!(answer.header("connection"), Some("close"), "{line}");
    }
}

#[tokio::test]
async fn who_is_not_refused_is_asked() {
    let world = World::start().await;
    let (key, body) = (world.bearer(), r#"{"model":"none/x"}"#);
    let mut caller = TcpStream::connect(world.address).await.unwrap();
    let length = body.len();
    let head = format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: gw\r\n{key}\r\nconnection: close\r\n\
         expect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    );
    caller.write_all(head.as_bytes()).await.unwrap();
    let asked = "HTTP/1.1 100 Continue\r\n\r\n";
    let mut first = vec![0; asked.len()];
    let read = caller.read_exact(&mut first);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(first).unwrap(), asked);
    caller.write_all(body.as_bytes()).await.unwrap();
    let mut rest = String::new();
    let read = caller.read_to_string(&mut rest);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    assert_eq!(Answer::parse(&rest).status, 404, "{rest}");
}
