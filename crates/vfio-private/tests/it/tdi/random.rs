// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Long random sequences of requests, events and faults.

use proptest::prelude::*;
use vfio_private::tdi::Event;

use crate::tdi::invariants::{check, recovers};
use crate::tdi::world::{FAULTS, Meanwhile, Request, World};

#[derive(Clone, Debug)]
enum Action {
    Ask(Request),
    Step(usize, Meanwhile),
    Event(Event),
    Insert,
}

fn event() -> impl Strategy<Value = Event> {
    prop::sample::select(vec![Event::Error, Event::Removed, Event::Reset])
}

fn action() -> impl Strategy<Value = Action> {
    let requests = vec![
        Request::Lock,
        Request::FetchReport,
        Request::Start(&[]),
        Request::Start(&[0, 1, 2, 3]),
        Request::Accept(&[0]),
        Request::Accept(&[1, 2]),
        Request::Accept(&[3]),
        Request::Release(&[1]),
        Request::Release(&[0, 1, 2, 3]),
        Request::Stop,
        Request::Reset,
    ];
    // Most steps succeed: otherwise few sequences get far.
    let fault = prop_oneof![12 => Just(0), 3 => 1..FAULTS.len()];
    let meanwhile = prop_oneof![
        20 => Just(Meanwhile::Nothing),
        1 => event().prop_map(Meanwhile::Before),
        1 => event().prop_map(Meanwhile::After),
    ];
    prop_oneof![
        6 => prop::sample::select(requests).prop_map(Action::Ask),
        20 => (fault, meanwhile).prop_map(|(fault, meanwhile)| Action::Step(fault, meanwhile)),
        1 => event().prop_map(Action::Event),
        1 => Just(Action::Insert),
    ]
}

proptest! {
    #[test]
    fn no_long_sequence_breaks_an_invariant(
        keeps_mappings in any::<bool>(),
        actions in prop::collection::vec(action(), 1..200),
    ) {
        let mut world = match keeps_mappings {
            true => World::keeping_mappings(),
            false => World::new(),
        };
        for action in actions {
            match action {
                Action::Ask(request) => {
                    let before = world.tdi.clone();
                    if world.ask(request).is_err() {
                        prop_assert_eq!(&before, &world.tdi);
                    }
                }
                Action::Step(fault, meanwhile) => {
                    let _ = world.step(FAULTS[fault], meanwhile);
                }
                Action::Event(event) => {
                    let _ = world.event(event);
                }
                Action::Insert => world.tsm.insert(),
            }
            prop_assert_eq!(check(&world), Ok(()));
        }
        prop_assert_eq!(recovers(&world), Ok(()));
    }
}
