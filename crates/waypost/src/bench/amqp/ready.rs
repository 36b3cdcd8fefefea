//! Waiting until sockets are ready: epoll on Linux, poll elsewhere. Level-triggered, with nanosecond time-outs.

use super::fault::Fault;
use std::io;
use std::net::TcpStream;
use std::time::Duration;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Input only.
    Read,
    /// Input, and room for output.
    ReadWrite,
}

/// A socket that is ready.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The number it was added under.
    pub key: usize,
    /// There is input, or an end, or an error to be read.
    pub readable: bool,
    /// There is room for output.
    pub writable: bool,
}

fn timespec(time: Duration) -> rustix::event::Timespec {
    rustix::event::Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

fn failed(error: rustix::io::Errno) -> Fault {
    Fault::Io { doing: "wait for sockets".to_owned(), source: io::Error::from(error) }
}

#[cfg(target_os = "linux")]
mod imp {
    use super::{Duration, Event, Fault, Interest, TcpStream, failed, timespec};
    use rustix::event::epoll;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;

    /// Sockets that one call reports at most; the others come with the next.
    const FOUND_MAX: usize = 128;

    /// The sockets of one thread.
    #[derive(Debug)]
    pub struct Ready {
        epoll: OwnedFd,
    }

    fn flags(interest: Interest) -> epoll::EventFlags {
        match interest {
            Interest::Read => epoll::EventFlags::IN,
            Interest::ReadWrite => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        }
    }

    impl Ready {
        pub fn new() -> Result<Self, Fault> {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
            Ok(Self { epoll })
        }

        pub fn add(&mut self, key: usize, stream: &TcpStream) -> Result<(), Fault> {
            let data = epoll::EventData::new_u64(key as u64);
            epoll::add(&self.epoll, stream, data, flags(Interest::Read)).map_err(failed)
        }

        pub fn change(&mut self, key: usize, stream: &TcpStream, to: Interest) -> Result<(), Fault> {
            let data = epoll::EventData::new_u64(key as u64);
            epoll::modify(&self.epoll, stream, data, flags(to)).map_err(failed)
        }

        pub fn wait(&mut self, time: Duration, events: &mut Vec<Event>) -> Result<(), Fault> {
            events.clear();
            let mut room = [MaybeUninit::<epoll::Event>::uninit(); FOUND_MAX];
            let found = match epoll::wait(&self.epoll, &mut room, Some(&timespec(time))) {
                Ok((found, _)) => found,
                Err(rustix::io::Errno::INTR) => return Ok(()),
                Err(error) => return Err(failed(error)),
            };
            events.extend(found.iter().map(|event| {
                let flags = event.flags;
                Event {
                    key: usize::try_from(event.data.u64()).unwrap_or(usize::MAX),
                    readable: flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR),
                    writable: flags.contains(epoll::EventFlags::OUT),
                }
            }));
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use super::{Duration, Event, Fault, Interest, TcpStream, failed, timespec};
    use rustix::event::{PollFd, PollFlags, poll};
    use std::os::fd::OwnedFd;

    /// The sockets of one thread.
    #[derive(Debug)]
    pub struct Ready {
        sockets: Vec<(usize, OwnedFd, Interest)>,
    }

    impl Ready {
        pub fn new() -> Result<Self, Fault> {
            Ok(Self { sockets: Vec::new() })
        }

        pub fn add(&mut self, key: usize, stream: &TcpStream) -> Result<(), Fault> {
            let copy = stream.try_clone().map_err(Fault::io("duplicate a socket"))?;
            self.sockets.push((key, copy.into(), Interest::Read));
            Ok(())
        }

        pub fn change(&mut self, key: usize, _: &TcpStream, to: Interest) -> Result<(), Fault> {
            for (known, _, interest) in &mut self.sockets {
                if *known == key {
                    *interest = to;
                }
            }
            Ok(())
        }

        pub fn wait(&mut self, time: Duration, events: &mut Vec<Event>) -> Result<(), Fault> {
            events.clear();
            let mut fds: Vec<_> = self
                .sockets
                .iter()
                .map(|(_, fd, interest)| {
                    let flags = match interest {
                        Interest::Read => PollFlags::IN,
                        Interest::ReadWrite => PollFlags::IN | PollFlags::OUT,
                    };
                    PollFd::new(fd, flags)
                })
                .collect();
            match poll(&mut fds, Some(&timespec(time))) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error)),
            }
            for ((key, _, _), fd) in self.sockets.iter().zip(&fds) {
                let flags = fd.revents();
                if !flags.is_empty() {
                    events.push(Event {
                        key: *key,
                        readable: flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
                        writable: flags.contains(PollFlags::OUT),
                    });
                }
            }
            Ok(())
        }
    }
}

pub use imp::Ready;
