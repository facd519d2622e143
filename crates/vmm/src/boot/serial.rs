// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The first serial port: a 16550A.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use vm_superio::serial::{Error, NoEvents};
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use super::bus::TrapDevice;
use super::outcome::{End, Outcome};

/// The most bytes of input that wait for the guest, besides those in the FIFO.
const MOST_WAITING: usize = 64 << 10;

/// The data register.
const DATA: u8 = 0;
/// The interrupt enable register.
const INTERRUPT_ENABLE: u8 = 1;
/// The line control register. Its top bit turns the first two registers into the
/// divisor of the line's speed.
const LINE_CONTROL: u8 = 3;
const DIVISOR_LATCH: u8 = 1 << 7;
/// The line status register. Its lowest bit is set while there is input.
const LINE_STATUS: u8 = 5;
const DATA_READY: u8 = 1;

/// A serial port. The guest's output goes to a writer, byte by byte, which may wait.
pub struct SerialPort {
    uart: Mutex<Uart>,
    /// The guest has read input, so that more can wait for it.
    has_read: Condvar,
    dropped: AtomicU64,
    end: End,
}

struct Uart {
    serial: Serial<Interrupt, NoEvents, Box<dyn Write + Send>>,
    waiting: VecDeque<u8>,
}

struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

impl fmt::Debug for SerialPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialPort").finish_non_exhaustive()
    }
}

impl SerialPort {
    /// A serial port that raises `interrupt`, a KVM irqfd. Every byte of output is
    /// written to `out` and flushed. If that fails, the guest ends: with
    /// [`Outcome::Left`] if the reader has gone ([`ErrorKind::BrokenPipe`]), else with
    /// [`Outcome::Fault`].
    pub fn new(interrupt: EventFd, out: Box<dyn Write + Send>, end: End) -> Self {
        let uart = Uart {
            serial: Serial::new(Interrupt(interrupt), out),
            waiting: VecDeque::new(),
        };
        Self {
            uart: Mutex::new(uart),
            has_read: Condvar::new(),
            dropped: AtomicU64::new(0),
            end,
        }
    }

    /// Queues input for the guest. Up to 64 KiB wait until the guest reads them; what
    /// is beyond that is dropped.
    pub fn input(&self, bytes: &[u8]) {
        let beyond = self.queue(&mut self.uart(), bytes);
        self.count_dropped(beyond.len());
    }

    /// Queues input for the guest. Blocks until the guest has read all of it but 64 KiB.
    pub fn input_all(&self, bytes: &[u8]) {
        let mut uart = self.uart();
        let mut rest = self.queue(&mut uart, bytes);
        while !rest.is_empty() {
            uart = (self.has_read.wait(uart)).unwrap_or_else(PoisonError::into_inner);
            rest = self.queue(&mut uart, rest);
        }
    }

    /// Queues as much as has room. Returns the rest.
    fn queue<'a>(&self, uart: &mut Uart, bytes: &'a [u8]) -> &'a [u8] {
        let (queued, rest) = bytes.split_at(bytes.len().min(MOST_WAITING - uart.waiting.len()));
        uart.waiting.extend(queued);
        let result = uart.fill_fifo();
        self.check(result);
        rest
    }

    /// Counts bytes of input that do not reach the guest. Does not block.
    pub fn count_dropped(&self, bytes: usize) {
        self.dropped.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many bytes of input were dropped. Does not block.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn uart(&self) -> MutexGuard<'_, Uart> {
        // A panic leaves at worst a byte written twice.
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, result: Result<(), Error<io::Error>>) {
        match result {
            Ok(()) | Err(Error::FullFifo) => {}
            Err(Error::IOError(error)) => self.end.report(console_error(&error)),
            Err(Error::Trigger(error)) => {
                let fault = format!("the interrupt of the serial port cannot be raised: {error}");
                self.end.report(Outcome::Fault(fault));
            }
        }
    }
}

impl Uart {
    fn read(&mut self, register: u8) -> Result<u8, Error<io::Error>> {
        let latched = self.serial.read(LINE_CONTROL) & DIVISOR_LATCH != 0;
        let value = self.serial.read(register);
        if register == DATA && !latched {
            self.fill_fifo()?;
            self.raise_again()?;
        }
        Ok(value)
    }

    fn write(&mut self, register: u8, value: u8) -> Result<(), Error<io::Error>> {
        self.serial.write(register, value)?;
        // The write may have ended loopback mode, in which the FIFO takes no input.
        self.fill_fifo()
    }

    /// Moves waiting input to the FIFO.
    fn fill_fifo(&mut self) -> Result<(), Error<io::Error>> {
        if self.waiting.is_empty() || self.serial.fifo_capacity() == 0 {
            return Ok(());
        }
        let taken = self.serial.enqueue_raw_bytes(self.waiting.as_slices().0)?;
        self.waiting.drain(..taken);
        Ok(())
    }

    /// Raises the interrupt if there is more input. `Serial` clears it whenever a byte
    /// is read, but a driver may leave bytes in the FIFO and wait: Linux reads at most
    /// 256 at a time. `Serial` checks for input when interrupts are enabled.
    fn raise_again(&mut self) -> Result<(), Error<io::Error>> {
        if self.serial.read(LINE_STATUS) & DATA_READY == 0 {
            return Ok(());
        }
        let enabled = self.serial.read(INTERRUPT_ENABLE);
        self.serial.write(INTERRUPT_ENABLE, enabled)
    }
}

impl TrapDevice for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut uart = self.uart();
        for (register, byte) in registers(offset).zip(data) {
            match uart.read(register) {
                Ok(value) => *byte = value,
                Err(error) => self.check(Err(error)),
            }
        }
        self.has_read.notify_all();
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut uart = self.uart();
        for (register, byte) in registers(offset).zip(data) {
            let result = uart.write(register, *byte);
            self.check(result);
        }
    }
}

/// How the guest ends whose output cannot be written.
fn console_error(error: &io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::BrokenPipe => Outcome::Left,
        _ => Outcome::Fault(format!("its console cannot be written: {error}")),
    }
}

/// The registers from `offset` on: a wider access is one to each of them.
fn registers(offset: u64) -> impl Iterator<Item = u8> {
    (0..8).skip(usize::try_from(offset).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const RECEIVED: u8 = 1;
    const INTERRUPT_IDENTIFICATION: u8 = 2;
    const NONE_PENDING: u8 = 1;

    /// Collects output, and fails once it is told to.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<(Vec<u8>, Option<ErrorKind>)>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (out, error) = &mut *self.0.lock().unwrap();
            match error {
                Some(kind) => Err((*kind).into()),
                None => out.write(bytes),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn port() -> (SerialPort, EventFd, Sink, End) {
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let (sink, end) = (Sink::default(), End::default());
        let irq = interrupt.try_clone().unwrap();
        let port = SerialPort::new(irq, Box::new(sink.clone()), end.clone());
        (port, interrupt, sink, end)
    }

    fn read(port: &SerialPort, register: u8) -> u8 {
        let mut data = [0xff];
        TrapDevice::read(port, register.into(), &mut data);
        data[0]
    }

    /// Reads as an interrupt handler that takes at most `most` bytes does.
    fn handle_interrupt(port: &SerialPort, most: usize) -> Vec<u8> {
        let ready = |_: &usize| read(port, LINE_STATUS) & DATA_READY != 0;
        (0..most)
            .take_while(ready)
            .map(|_| read(port, DATA))
            .collect()
    }

    #[test]
    fn what_the_guest_writes_reaches_the_sink() {
        let (port, _interrupt, sink, end) = port();
        for byte in b"Linux\r\n" {
            port.write(DATA.into(), &[*byte]);
        }
        assert_eq!(sink.0.lock().unwrap().0, b"Linux\r\n");
        assert!(!end.is_over());
    }

    #[test]
    fn the_guest_ends_when_nobody_reads_its_output_any_more() {
        let (port, _interrupt, sink, end) = port();
        sink.0.lock().unwrap().1 = Some(ErrorKind::BrokenPipe);
        port.write(DATA.into(), b"a");
        assert_eq!(end.wait(), Outcome::Left);
    }

    #[test]
    fn a_console_that_cannot_be_written_is_a_fault_and_not_a_user_who_leaves() {
        let (port, _interrupt, sink, end) = port();
        sink.0.lock().unwrap().1 = Some(ErrorKind::StorageFull);
        port.write(DATA.into(), b"a");
        let Outcome::Fault(text) = end.wait() else {
            panic!("{:?}", end.wait());
        };
        assert!(
            text.starts_with("its console cannot be written: "),
            "{text}"
        );
    }

    #[test]
    fn input_raises_the_interrupt_once_the_guest_has_enabled_it() {
        let (port, interrupt, ..) = port();
        port.input(b"a");
        assert!(interrupt.read().is_err());
        port.write(INTERRUPT_ENABLE.into(), &[RECEIVED]);
        assert_eq!(interrupt.read().unwrap(), 1);
        assert_eq!(handle_interrupt(&port, 256), b"a");
        assert!(interrupt.read().is_err());
    }

    #[test]
    fn a_paste_is_read_in_order_by_a_driver_that_waits_for_interrupts() {
        let (port, interrupt, ..) = port();
        port.write(INTERRUPT_ENABLE.into(), &[RECEIVED]);
        let paste: Vec<u8> = (0..10_007_u32).map(|n| (n % 251) as u8).collect();
        port.input(&paste[..10]);
        port.input(&paste[10..]);
        let mut received = Vec::new();
        while interrupt.read().is_ok() {
            // Another interrupt may have been for the same bytes.
            if read(&port, INTERRUPT_IDENTIFICATION) & NONE_PENDING == 0 {
                received.extend(handle_interrupt(&port, 256));
            }
        }
        assert!(received == paste, "{} bytes", received.len());
        assert_eq!(port.dropped(), 0);
    }

    #[test]
    fn input_beyond_the_bound_is_dropped_and_counted() {
        let (port, ..) = port();
        port.input(&vec![b'a'; MOST_WAITING]);
        port.input(&vec![b'b'; MOST_WAITING]);
        let received = handle_interrupt(&port, usize::MAX);
        let dropped = usize::try_from(port.dropped()).unwrap();
        assert!(received.len() >= MOST_WAITING);
        assert_eq!(received.len() + dropped, 2 * MOST_WAITING);
    }

    #[test]
    fn input_that_must_not_be_lost_waits_for_the_guest() {
        let (port, ..) = port();
        let port = Arc::new(port);
        let input: Vec<u8> = (0..4 * MOST_WAITING)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect();
        let bytes = input.clone();
        let sender = Arc::clone(&port);
        let sends = std::thread::spawn(move || sender.input_all(&bytes));
        let mut received = Vec::new();
        while received.len() < input.len() {
            received.extend(handle_interrupt(&port, 256));
        }
        sends.join().unwrap();
        assert!(received == input);
        assert_eq!(port.dropped(), 0);
    }

    #[test]
    fn input_that_arrives_in_loopback_mode_is_read_after_it() {
        let (port, ..) = port();
        let (modem_control, loopback) = (4, 1 << 4);
        port.write(modem_control, &[loopback]);
        port.input(b"a");
        port.write(DATA.into(), b"x");
        assert_eq!(handle_interrupt(&port, 256), b"x");
        port.write(modem_control, &[0]);
        assert_eq!(handle_interrupt(&port, 256), b"a");
    }

    #[test]
    fn an_access_of_several_bytes_is_one_to_each_register() {
        let (port, ..) = port();
        let (line_control, scratch) = (3, 7);
        port.write(line_control, &[0x03, 0x08]);
        port.write(scratch, &[0x5a, 0x5b]);
        let mut data = [0xff; 2];
        TrapDevice::read(&port, line_control, &mut data);
        assert_eq!(data, [0x03, 0x08]);
        assert_eq!(read(&port, 7), 0x5a);
        TrapDevice::read(&port, u64::MAX, &mut data);
        assert_eq!(data, [0x03, 0x08], "no register, and no panic");
    }
}
