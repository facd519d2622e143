// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The programs of the kernel's selftests: how each is run, and what is expected
//! of it. A program can be run in several ways, with different names.

mod backing_fd;
mod iommu;
mod kvm;
mod vfio;

use std::time::Duration;

use super::settings::Setting;
use crate::needs::Need;

/// All programs, by suite.
pub static PROGRAMS: [&[Program]; 4] = [
    &kvm::PROGRAMS,
    &backing_fd::PROGRAMS,
    &vfio::PROGRAMS,
    &iommu::PROGRAMS,
];

/// One run of a program.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The suite's name and the path in it, such as `kvm/x86/smm_test`.
    pub path: &'static str,
    /// What distinguishes the run from others of the same program.
    variant: &'static str,
    /// The arguments. The addresses of needed devices follow.
    pub arguments: &'static [&'static str],
    /// What the machine must have.
    pub needs: &'static [Need],
    /// Settings of the kernel for the time of the run.
    pub settings: &'static [Setting],
    /// The time limit.
    pub limit: Duration,
    /// Whether it is run.
    pub plan: Plan,
    /// How it ends.
    pub expected: Expected,
    /// Whether it belongs to the selection that takes a minute.
    pub is_quick: bool,
}

/// Whether a program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is.
    Run,
    /// It is not, for this reason.
    NotRun(&'static str),
}

/// How a program ends on an unpatched kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It passes, or skips itself.
    Pass,
    /// It fails.
    Failure {
        /// The text that it prints then. Another failure is not this one.
        with: &'static str,
        /// The cause.
        why: &'static str,
    },
    /// It fails now and then.
    Unsteady {
        /// The text that it prints then.
        with: &'static str,
        /// The cause.
        why: &'static str,
    },
}

/// A program that runs without arguments and is expected to pass. One of KVM's
/// needs KVM.
pub const fn program(path: &'static str) -> Program {
    Program {
        path,
        variant: "",
        arguments: &[],
        needs: &[Need::Kvm],
        settings: &[],
        // None takes longer than a quarter of it unless the host is busy.
        limit: Duration::from_secs(240),
        plan: Plan::Run,
        expected: Expected::Pass,
        is_quick: false,
    }
}

impl Program {
    /// Its name without `selftest`: `kvm::x86_smm_test`.
    pub fn name(&self) -> String {
        let (suite, path) = self.path.split_once('/').unwrap_or(("", self.path));
        let name = path.replace('/', "_");
        match self.variant {
            "" => format!("{suite}::{name}"),
            variant => format!("{suite}::{name}_{variant}"),
        }
    }

    pub(super) const fn variant(self, variant: &'static str) -> Self {
        Self { variant, ..self }
    }

    pub(super) const fn with(self, arguments: &'static [&'static str]) -> Self {
        Self { arguments, ..self }
    }

    pub(super) const fn needs(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }

    const fn settings(self, settings: &'static [Setting]) -> Self {
        Self { settings, ..self }
    }

    pub(super) const fn not_run(self, why: &'static str) -> Self {
        let plan = Plan::NotRun(why);
        Self { plan, ..self }
    }

    pub(super) const fn fails(self, with: &'static str, why: &'static str) -> Self {
        let expected = Expected::Failure { with, why };
        Self { expected, ..self }
    }

    pub(super) const fn unsteady(self, with: &'static str, why: &'static str) -> Self {
        let expected = Expected::Unsteady { with, why };
        Self { expected, ..self }
    }

    const fn quick(self) -> Self {
        let is_quick = true;
        Self { is_quick, ..self }
    }
}
