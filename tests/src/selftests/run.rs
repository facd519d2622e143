// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs one program of the list, and judges how it ended.

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use kernel_log::Judgement;

use super::kmsg::KernelLog;
use super::list::{Expected, Plan, Program};
use super::output::{excerpt, skip_reason};
use super::process;
use super::settings::Settings;
use crate::hardware::{Ended, Message};
use crate::needs::Need;

/// The exit status of a selftest that skips itself.
const SKIPPED: i32 = 4;

/// The interval of reports that a program still runs.
const BEAT: Duration = Duration::from_secs(30);

/// Runs a program of the list.
///
/// # Errors
/// It fails in a way that the list does not expect, or the kernel gives a warning
/// meanwhile.
pub fn run(program: &Program, folder: &Path, report: &dyn Fn(Message)) -> Result<Ended, String> {
    if let Plan::NotRun(why) = program.plan {
        return Ok(Ended::Skipped(format!("not run: {why}")));
    }
    let mut command = Command::new(folder.join(program.path));
    command
        .args(program.arguments)
        .args(addresses(program.needs)?);
    let settings = Settings::make(program.settings)?;
    let mut log = KernelLog::open()?;
    // The reader of the results gives up on a test that reports nothing.
    let alive = || report(Message::Progress(format!("{} runs", program.name())));
    let finished = process::run(&mut command, program.limit, BEAT, &alive)?;
    drop(settings);
    let news = log.news()?;
    if let Some(complaint) = Judgement::of(&news).complaint() {
        let output = excerpt(&finished.output);
        return Err(format!("the kernel says: {complaint}\n{output}"));
    }
    let (verdict, note) = judge(program, finished.status, &finished.output);
    if let Some(note) = note {
        report(Message::Note(format!(
            "selftest::{}: {note}",
            program.name()
        )));
    }
    verdict
}

/// The PCI addresses of the devices that a program needs.
fn addresses(needs: &[Need]) -> Result<Vec<String>, String> {
    let models = needs.iter().filter_map(|need| match need {
        Need::Vfio(model) => Some(model),
        _ => None,
    });
    models.map(|model| Ok(model.bound()?.to_string())).collect()
}

/// The verdict on a program, and a note on its place in the list.
fn judge(
    program: &Program,
    status: Option<ExitStatus>,
    output: &str,
) -> (Result<Ended, String>, Option<&'static str>) {
    let failure = match status {
        Some(status) if status.success() => {
            let note = match program.expected {
                Expected::Failure { .. } => Some("it passes, and the list says that it fails"),
                Expected::Pass | Expected::Unsteady { .. } => None,
            };
            return (Ok(Ended::Passed), note);
        }
        Some(status) if status.code() == Some(SKIPPED) => {
            let why = skip_reason(output);
            let ended = match program.expected {
                // A clock that is not usable now and then is a reason to skip, too.
                Expected::Unsteady { .. } => Ended::Unsteady(why),
                Expected::Pass | Expected::Failure { .. } => Ended::Skipped(why),
            };
            return (Ok(ended), None);
        }
        Some(status) => status.to_string(),
        None => format!("it took longer than {} s", program.limit.as_secs()),
    };
    let verdict = match program.expected {
        Expected::Failure { with, why } if output.contains(with) => {
            Ok(Ended::KnownFailure(why.into()))
        }
        Expected::Unsteady { with, why } if output.contains(with) => {
            Ok(Ended::Unsteady(format!("it fails now and then: {why}")))
        }
        _ => Err(format!("{failure}\n{}", excerpt(output))),
    };
    (verdict, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftests::list::program;
    use std::os::unix::process::ExitStatusExt;

    fn verdict(program: &Program, code: i32, output: &str) -> Result<Ended, String> {
        judge(program, Some(ExitStatus::from_raw(code << 8)), output).0
    }

    #[test]
    fn the_exit_status_is_the_verdict() {
        let it = program("kvm/it");
        assert_eq!(verdict(&it, 0, "ok"), Ok(Ended::Passed));
        let skipped = Ended::Skipped("no SEV".into());
        assert_eq!(verdict(&it, 4, "1..0 # SKIP - no SEV"), Ok(skipped));
        let failure = verdict(&it, 254, "Test Assertion Failure").expect_err("it failed");
        assert_eq!(failure, "exit status: 254\nTest Assertion Failure");
        let killed = ExitStatus::from_raw(libc::SIGSEGV);
        let failure = judge(&it, Some(killed), "").0.expect_err("it was killed");
        assert!(failure.contains("signal: 11"), "{failure}");
        let failure = judge(&it, None, "busy").0.expect_err("too long");
        assert!(failure.contains("longer than 240 s"), "{failure}");
    }

    #[test]
    fn a_listed_failure_is_known_if_it_is_the_listed_one() {
        let it = program("kvm/it").fails("val == want", "the emulator has no such register");
        let known = Ended::KnownFailure("the emulator has no such register".into());
        assert_eq!(verdict(&it, 254, "it.c:5: val == want"), Ok(known));
        assert!(verdict(&it, 254, "it.c:9: r == 0").is_err());
        let status = ExitStatus::from_raw(0);
        let (passed, note) = judge(&it, Some(status), "");
        assert_eq!(passed, Ok(Ended::Passed));
        assert!(note.is_some_and(|note| note.contains("the list says that it fails")));
    }

    #[test]
    fn an_unsteady_program_may_pass_or_skip_itself_or_fail_in_its_way() {
        let it = program("kvm/it").unsteady("too late", "the clock of a busy emulator");
        assert!(matches!(
            verdict(&it, 254, "too late"),
            Ok(Ended::Unsteady(_))
        ));
        assert!(verdict(&it, 254, "r == 0").is_err());
        let skipped = verdict(&it, 4, "1..0 # SKIP - no TSC");
        assert_eq!(skipped, Ok(Ended::Unsteady("no TSC".into())));
        assert_eq!(judge(&it, Some(ExitStatus::from_raw(0)), "").1, None);
    }

    #[test]
    fn a_program_that_is_not_run_says_why() {
        let it = program("kvm/it").not_run("it needs more memory");
        let ended = run(&it, Path::new("/nowhere"), &|_| {});
        let why = "not run: it needs more memory".into();
        assert_eq!(ended, Ok(Ended::Skipped(why)));
    }
}
