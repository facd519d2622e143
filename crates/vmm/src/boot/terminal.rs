// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The user's terminal, which becomes the guest's.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, mpsc};
use std::{panic, thread};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcsetattr};

use super::keys::{KeyDecoder, Keys};
use super::messages::Messages;
use super::outcome::{End, Outcome};
use super::serial::SerialPort;

/// The terminal's attributes before it became raw. A process has one terminal, and a
/// panic or a signal must be able to restore it.
static ORIGINAL: Mutex<Option<Termios>> = Mutex::new(None);

/// What Ctrl-A H prints.
const HELP: &str = "Ctrl-A X: leave    Ctrl-A A: send Ctrl-A    Ctrl-A H: this help";

/// Standard input in raw mode, until this is dropped, a thread panics, or a signal of
/// [`end_on_signals`](super::signals::end_on_signals) arrives.
#[derive(Debug)]
pub struct Terminal(());

impl Terminal {
    /// Puts standard input into raw mode, in which every key goes to the guest. `None` if
    /// it is not a terminal.
    ///
    /// # Errors
    /// The terminal refuses.
    pub fn raw() -> io::Result<Option<Self>> {
        if !isatty(stdin()) {
            return Ok(None);
        }
        let original = tcgetattr(stdin())?;
        restore_on_panic();
        let mut raw = original.clone();
        raw.make_raw();
        // A line feed still starts at the left: the VMM prints messages too.
        let output = OutputModes::OPOST;
        raw.output_modes
            .set(output, original.output_modes.contains(output));
        // A signal meanwhile waits, and restores the terminal afterwards.
        let mut saved = lock();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        saved.get_or_insert(original);
        Ok(Some(Self(())))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal what it was before [`Terminal::raw`].
pub(super) fn restore() {
    let mut original = lock();
    if let Some(attributes) = original.take() {
        // It fails if the terminal has gone.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &attributes);
    }
}

fn lock() -> MutexGuard<'static, Option<Termios>> {
    ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Restores the terminal before the message of a panic is printed.
fn restore_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            restore();
            print(panic);
        }));
    });
}

/// Why the keys end.
#[derive(Debug)]
pub enum KeysEnd {
    /// The user pressed Ctrl-A X.
    Left,
    /// The input is at its end.
    EndOfInput,
    /// The input cannot be read.
    Failed(io::Error),
}

/// Reads keys and passes on those for the guest, until the user leaves or there is no
/// more input. `on_help` is called for Ctrl-A H. `wait` waits for input: it is called if the
/// input does not block and has none.
///
/// Only this sees that the user leaves, so `on_help` must not block, and `on_bytes` must not
/// where a user types.
pub fn read_keys(
    mut input: impl Read,
    mut wait: impl FnMut() -> io::Result<()>,
    mut on_bytes: impl FnMut(&[u8]),
    mut on_help: impl FnMut(),
) -> KeysEnd {
    let mut decoder = KeyDecoder::default();
    let mut buffer = [0; 4096];
    loop {
        let read = match input.read(&mut buffer) {
            Ok(0) => return KeysEnd::EndOfInput,
            Ok(read) => &buffer[..read],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => match wait() {
                Ok(()) => continue,
                Err(error) => return KeysEnd::Failed(error),
            },
            Err(error) => return KeysEnd::Failed(error),
        };
        let Keys { bytes, help, left } = decoder.decode(read);
        if !bytes.is_empty() {
            on_bytes(&bytes);
        }
        if help {
            on_help();
        }
        if left {
            return KeysEnd::Left;
        }
    }
}

/// How many reads of input wait for a guest that does not take them.
const MOST_WAITING: usize = 64;

/// Starts a thread that reads standard input, one that passes it to the guest, and one that
/// prints messages. The first ends the guest when the user leaves; without a user, the guest
/// goes on.
///
/// A guest may read no input, and takes none while its output is stuck. The user can leave
/// it nevertheless, because the thread that reads a terminal does not wait for the other: it
/// drops and counts what no longer has room. Input that is not a terminal waits, and none of
/// it is lost.
///
/// The threads are not joined: they usually block, and end with the process.
///
/// # Errors
/// A thread cannot be started.
pub fn spawn_input(serial: Arc<SerialPort>, end: End) -> io::Result<()> {
    let messages = Messages::spawn()?;
    let (sender, keys) = mpsc::sync_channel::<Vec<u8>>(MOST_WAITING);
    let is_terminal = isatty(stdin());
    let port = Arc::clone(&serial);
    let pass_on = move || {
        keys.iter().for_each(|bytes| match is_terminal {
            true => port.input(&bytes),
            false => port.input_all(&bytes),
        });
    };
    let read = move || {
        let on_bytes = |bytes: &[u8]| match is_terminal {
            true if sender.try_send(bytes.to_vec()).is_err() => serial.count_dropped(bytes.len()),
            true => {}
            // It fails only if the other thread has panicked.
            false => drop(sender.send(bytes.to_vec())),
        };
        let on_help = || messages.post(format!("\n{HELP}\n"));
        match read_keys(io::stdin().lock(), wait_for_input, on_bytes, on_help) {
            KeysEnd::Left => end.report(Outcome::Left),
            KeysEnd::EndOfInput => {}
            KeysEnd::Failed(error) => {
                messages.post(format!("vmm: no more input for the guest: {error}\n"));
            }
        }
    };
    thread::Builder::new().name("keys".into()).spawn(pass_on)?;
    thread::Builder::new().name("input".into()).spawn(read)?;
    Ok(())
}

/// Waits until standard input can be read. Another process that shares it may have made it
/// non-blocking.
fn wait_for_input() -> io::Result<()> {
    let stdin = stdin();
    match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Each item is what one read returns.
    struct Reads(VecDeque<io::Result<&'static [u8]>>);

    impl Read for Reads {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let bytes = self.0.pop_front().unwrap_or(Ok(b""))?;
            buffer[..bytes.len()].copy_from_slice(bytes);
            Ok(bytes.len())
        }
    }

    fn keys<const N: usize>(reads: [io::Result<&'static [u8]>; N]) -> (Vec<u8>, KeysEnd) {
        let mut sent = Vec::new();
        let on_bytes = |bytes: &[u8]| sent.extend_from_slice(bytes);
        let end = read_keys(Reads(reads.into()), || Ok(()), on_bytes, || {});
        (sent, end)
    }

    #[test]
    fn keys_are_passed_on_until_the_user_leaves() {
        let (sent, end) = keys([Ok(b"ls\r\x01"), Ok(b"xmore"), Ok(b"more")]);
        assert_eq!(sent, b"ls\r");
        assert!(matches!(end, KeysEnd::Left));
    }

    #[test]
    fn a_signal_does_not_end_the_keys_and_the_end_of_input_does() {
        let (sent, end) = keys([Ok(b"a"), Err(io::ErrorKind::Interrupted.into()), Ok(b"b")]);
        assert_eq!(sent, b"ab");
        assert!(matches!(end, KeysEnd::EndOfInput));
    }

    #[test]
    fn input_that_does_not_block_is_waited_for() {
        let (sent, end) = keys([Err(io::ErrorKind::WouldBlock.into()), Ok(b"a\x01x")]);
        assert_eq!(sent, b"a");
        assert!(matches!(end, KeysEnd::Left));
        let (reads, gone) = ([Err(io::ErrorKind::WouldBlock.into())], || {
            Err(io::Error::other("gone"))
        });
        let end = read_keys(Reads(reads.into()), gone, |_| {}, || {});
        assert!(matches!(end, KeysEnd::Failed(_)));
    }

    #[test]
    fn a_terminal_that_hangs_up_is_not_a_user_who_leaves() {
        let (sent, end) = keys([Ok(b"a"), Err(io::Error::other("gone"))]);
        assert_eq!(sent, b"a");
        assert!(matches!(end, KeysEnd::Failed(_)));
    }
}
