//! Answers that leave together.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// A shorter piece is copied behind the one before: that costs less than another part of the write.
const COPIED_BYTES_MAX: usize = 1024;
/// Most parts of one write.
const PARTS_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Answers {
    parts: VecDeque<Bytes>,
    /// What comes behind them, as long as nothing is written.
    copied: Vec<u8>,
    bytes: usize,
}

impl Answers {
    /// Bytes that are to be written.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an answer, behind its length.
    ///
    /// # Errors
    /// It is longer than a length can say.
    pub(super) fn add(&mut self, pieces: Vec<Bytes>) -> io::Result<()> {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let told =
            i32::try_from(length).map_err(|_| io::Error::new(ErrorKind::InvalidData, "an answer is too long"))?;
        self.bytes += length + size_of_val(&told);
        self.copied.extend_from_slice(&told.to_be_bytes());
        for piece in pieces {
            if piece.len() <= COPIED_BYTES_MAX {
                self.copied.extend_from_slice(&piece);
            } else {
                self.end_copied();
                self.parts.push_back(piece);
            }
        }
        Ok(())
    }

    fn end_copied(&mut self) {
        if !self.copied.is_empty() {
            self.parts.push_back(std::mem::take(&mut self.copied).into());
        }
    }

    /// Writes everything, and lets go of it.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn write(&mut self, socket: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        self.end_copied();
        while !self.parts.is_empty() {
            let slices: Vec<IoSlice<'_>> = self.parts.iter().take(PARTS_MAX).map(|part| IoSlice::new(part)).collect();
            let mut wrote = socket.write_vectored(&slices).await?;
            if wrote == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            while let Some(front) = self.parts.front_mut() {
                if wrote < front.len() {
                    let _ = front.split_to(wrote);
                    break;
                }
                wrote -= front.len();
                self.parts.pop_front();
            }
        }
        self.bytes = 0;
        socket.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn answers_come_out_one_behind_the_other_however_they_are_cut() {
        let sizes = [&[3_usize, 0, 1000][..], &[], &[5000], &[1, 2000, 2, 70_000, 1024, 1025], &[9]];
        for room in [7, 4096, 1 << 20] {
            let (mut peer, mut socket) = tokio::io::duplex(room);
            let (mut answers, mut expected) = (Answers::default(), Vec::new());
            for round in 0..2_u8 {
                for (n, sizes) in sizes.iter().enumerate() {
                    let pieces: Vec<Bytes> = sizes.iter().map(|s| vec![round * 16 + n as u8; *s].into()).collect();
                    expected.extend_from_slice(&(sizes.iter().sum::<usize>() as i32).to_be_bytes());
                    expected.extend(pieces.iter().flatten());
                    answers.add(pieces).unwrap();
                }
                let mut read = vec![0; answers.bytes()];
                let (wrote, come) = tokio::join!(answers.write(&mut socket), peer.read_exact(&mut read));
                wrote.unwrap();
                come.unwrap();
                assert!(read == expected, "{room} {round}");
                assert_eq!(answers.bytes(), 0);
                expected.clear();
            }
        }
    }
}
