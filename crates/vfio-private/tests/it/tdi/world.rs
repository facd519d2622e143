// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A TDI and the simulated security manager that carries out its steps.

use std::rc::Rc;

use vfio_private::tdi::sim::{Lost, SimTsm};
use vfio_private::tdi::{
    Attested, Event, InterfaceId, Mapping, Outcome, PrivateBytes, Progress, Step, Tdi, TdiError,
};

use crate::common::{Device, index, span, tee};

/// What goes wrong with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    Fails,
    Loses(Lost),
}

pub const FAULTS: [Fault; 5] = [
    Fault::None,
    Fault::Fails,
    Fault::Loses(Lost::Done),
    Fault::Loses(Lost::NotDone),
    Fault::Loses(Lost::Late),
];

/// An event while a step is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    Nothing,
    Before(Event),
    After(Event),
}

impl Meanwhile {
    pub fn event(self) -> Option<Event> {
        match self {
            Self::Nothing => None,
            Self::Before(event) | Self::After(event) => Some(event),
        }
    }
}

/// What a test asks of a TDI. The numbers are pages, see [`page`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Lock,
    FetchReport,
    Start(&'static [u64]),
    Accept(&'static [u64]),
    Release(&'static [u64]),
    Stop,
    Reset,
}

/// A page of BAR 0, and where the guest has it.
pub fn page(n: u64) -> Mapping {
    Mapping::new(index(0), span(n * 0x1000, 0x1000), 0x1_0000 + n * 0x1000).unwrap()
}

/// The first four pages of BAR 0 are private.
pub fn private_bytes() -> PrivateBytes {
    let device = Device::with_bar(0x8000).report(&[tee(0, 0x4000)]);
    let pieces = device.classify().unwrap();
    PrivateBytes::new().with_bar(index(0), &pieces)
}

/// A TDI, its TSM, and the report that was fetched last.
#[derive(Clone, Debug)]
pub struct World {
    pub tdi: Tdi,
    pub tsm: SimTsm,
    /// With the lock that the device named in it.
    pub report: Option<Rc<(u64, Attested<PrivateBytes>)>>,
    /// How many steps to lock were begun.
    pub locks: u64,
    private: Rc<PrivateBytes>,
}

impl World {
    pub fn new() -> Self {
        Self {
            tdi: Tdi::new(InterfaceId(0x100)),
            tsm: SimTsm::new(Vec::new()),
            report: None,
            locks: 0,
            private: Rc::new(private_bytes()),
        }
    }

    /// The TSM leaves registers mapped if it stops the TDI.
    pub fn keeping_mappings() -> Self {
        let world = Self::new();
        Self {
            tsm: world.tsm.keeping_mappings(),
            ..world
        }
    }

    /// Asks for something. Requests that need a report use the latest one, stale or not.
    pub fn ask(&mut self, request: Request) -> Result<(), TdiError> {
        let tdi = &mut self.tdi;
        let pages = |pages: &[u64]| pages.iter().map(|&n| page(n)).collect::<Vec<_>>();
        let report = self.report.clone();
        let report = report.as_ref().map(|report| &report.1);
        let start = |tdi: &mut Tdi, asked: &[u64]| match report {
            Some(report) => tdi.start(report, &pages(asked)),
            None => Ok(()),
        };
        match request {
            Request::Lock => tdi.lock(),
            Request::FetchReport => tdi.fetch_report(),
            Request::Start(asked) => start(tdi, asked),
            Request::Accept(asked) => match report {
                Some(report) => tdi.accept(report, &pages(asked)),
                None => Ok(()),
            },
            Request::Release(asked) => {
                let ranges = pages(asked);
                let first = ranges.first().unwrap().gpa().start();
                let last = ranges.last().unwrap().gpa().last();
                tdi.release(span(first, last - first + 1))
            }
            Request::Stop => tdi.stop(),
            Request::Reset => tdi.reset(),
        }
    }

    /// An event: it happens to the device, and the TDI is told.
    pub fn event(&mut self, event: Event) -> Progress {
        match event {
            Event::Error => self.tsm.break_interface(),
            Event::Removed => self.tsm.remove(),
            Event::Reset => self.tsm.reset(),
            _ => unreachable!("there are three events"),
        }
        self.tdi.event(event)
    }

    /// Carries out the next step.
    pub fn step(&mut self, fault: Fault, meanwhile: Meanwhile) -> Option<(Step, Progress)> {
        let ticket = self.tdi.begin()?;
        let step = ticket.step();
        self.locks += u64::from(step == Step::Lock);
        match fault {
            Fault::None => {}
            Fault::Fails => self.tsm.fail(0),
            Fault::Loses(lost) => self.tsm.lose(0, lost),
        }
        if let Meanwhile::Before(event) = meanwhile {
            let _ = self.event(event);
        }
        let outcome = self.tsm.perform(step);
        if let Some(report) = self.tsm.take_report() {
            let attested = ticket.attest(PrivateBytes::clone(&self.private)).unwrap();
            self.report = Some(Rc::new((report.lock, attested)));
        }
        if let Meanwhile::After(event) = meanwhile {
            let _ = self.event(event);
        }
        let progress = self.tdi.answered(ticket, outcome).unwrap();
        Some((step, progress))
    }

    /// Carries out all steps. Those with a fault are numbered from 0.
    pub fn run(&mut self, faults: &[(usize, Fault)]) -> (Vec<String>, Progress) {
        let mut steps = Vec::new();
        let mut progress = Progress::Done;
        loop {
            let fault = faults.iter().find(|(n, _)| *n == steps.len());
            let fault = fault.map_or(Fault::None, |(_, fault)| *fault);
            match self.step(fault, Meanwhile::Nothing) {
                Some((step, now)) => {
                    steps.push(short(step));
                    progress = now;
                }
                None => return (steps, progress),
            }
            assert!(steps.len() < 100, "it never ends: {steps:?}");
        }
    }

    /// Asks, and carries out all steps without a fault.
    #[track_caller]
    pub fn done(&mut self, request: Request) -> Vec<String> {
        self.ask(request).unwrap();
        let (steps, progress) = self.run(&[]);
        assert_eq!(progress, Progress::Done, "{request:?}: {steps:?}");
        steps
    }

    /// Asks, and carries out all steps, one of which has a fault. Returns the steps after it.
    #[track_caller]
    pub fn with_fault(&mut self, request: Request, at: &str, fault: Fault) -> Vec<String> {
        self.ask(request).unwrap();
        loop {
            let step = self.tdi.next_step().expect("the step is not made");
            let is_it = short(step) == at;
            let fault = if is_it { fault } else { Fault::None };
            let (step, progress) = self.step(fault, Meanwhile::Nothing).unwrap();
            if is_it {
                let outcome = match fault {
                    Fault::Fails => Outcome::Failed,
                    _ => Outcome::Unknown,
                };
                let (steps, end) = self.run(&[]);
                let end = if steps.is_empty() { progress } else { end };
                let obstacle = vfio_private::tdi::Obstacle::Step(step, outcome);
                assert_eq!(end, Progress::NotDone(obstacle));
                return steps;
            }
        }
    }
}

/// A step with the number of its page: `map 0`.
pub fn short(step: Step) -> String {
    let text = step.to_string();
    match step.mapping() {
        Some(mapping) => {
            let word = text.split(' ').next().unwrap_or_default();
            let first = mapping.bytes().start() / 0x1000;
            let last = mapping.bytes().last() / 0x1000;
            match first == last {
                true => format!("{word} {first}"),
                false => format!("{word} {first}-{last}"),
            }
        }
        None => text,
    }
}
