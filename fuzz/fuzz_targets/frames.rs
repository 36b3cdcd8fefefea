//! Frames, methods and content headers from any bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waypost_amqp::codec::{ContentHeader, Frame, FrameKind, Method};

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Ok(Some(frame)) = Frame::parse(rest, 131_072) {
        match frame.kind {
            FrameKind::Method => method(frame.payload),
            FrameKind::Header => header(frame.payload),
            FrameKind::Body | FrameKind::Heartbeat => {}
        }
        rest = &rest[frame.wire_len()..];
    }
    method(data);
});

fn method(payload: &[u8]) {
    let Ok(method) = Method::decode(payload) else { return };
    let mut once = Vec::new();
    method.encode_frame(&mut once, 1);
    let frame = Frame::parse(&once, u32::MAX).unwrap().unwrap();
    let mut twice = Vec::new();
    Method::decode(frame.payload).unwrap().encode_frame(&mut twice, 1);
    assert_eq!(once, twice);
}

fn header(payload: &[u8]) {
    let Ok(header) = ContentHeader::decode(payload) else { return };
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    assert_eq!(ContentHeader::decode(&bytes), Ok(header));
    let _ = waypost_model::props::scan(header.props);
}
