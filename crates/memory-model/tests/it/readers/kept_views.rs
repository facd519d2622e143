// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! New views reuse replaced ones. A reader that still has a replaced view must not
//! notice.

use std::collections::BTreeMap;
use std::sync::Arc;

use memory_model::{FlatView, MemoryModel, Region, RegionId, SpaceId, ThreadReader};
use proptest::prelude::*;

const PAGE: u64 = 0x1000;

/// BARs at every second page, and where each lies.
struct Bars {
    model: MemoryModel,
    space: SpaceId,
    bars: Vec<RegionId>,
    at: BTreeMap<u64, RegionId>,
}

impl Bars {
    fn new(count: u64) -> Self {
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let memory = t.add(Region::container("memory", 1 << 64)).unwrap();
        let place = |n| {
            let bar = t.add(Region::mmio("bar", PAGE.into())).unwrap();
            t.place(bar, memory, 2 * n * PAGE, 0).unwrap();
            bar
        };
        let bars: Vec<RegionId> = (0..count).map(place).collect();
        t.commit().unwrap();
        let space = model.add_space("memory", memory).unwrap();
        let at = (0..).map(|n| 2 * n * PAGE).zip(bars.iter().copied());
        Self {
            at: at.collect(),
            model,
            space,
            bars,
        }
    }

    /// Moves a BAR, unless another one lies there.
    fn step(&mut self, bar: RegionId, to: u64) {
        if !self.at.contains_key(&to) {
            let mut t = self.model.transaction();
            t.move_to(bar, to).unwrap();
            t.commit().unwrap();
            self.at.retain(|_, other| *other != bar);
            self.at.insert(to, bar);
        }
    }
}

fn shows(view: &FlatView<()>, at: &BTreeMap<u64, RegionId>) -> bool {
    let shown = view.ranges().map(|run| (run.range().start(), run.id()));
    shown.eq(at.iter().map(|(start, bar)| (*start, *bar)))
}

/// A view, and what it showed when it was new.
type Kept = (Arc<FlatView<()>>, BTreeMap<u64, RegionId>);

/// What is done beside a move.
#[derive(Clone, Debug)]
enum Beside {
    Nothing,
    /// A reader keeps the view, until this many others were kept.
    Keep,
    /// A thread looks at the view, and at none before it is asked again.
    Look,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_view_stays_as_it_was_while_others_are_made_of_its_nodes(
        count in 1_u64..700,
        // To the same few places, as BARs are, or anywhere.
        steps in prop::collection::vec(
            (
                any::<prop::sample::Index>(),
                prop_oneof![0_u64..8, 0_u64..1500],
                prop_oneof![3 => Just(Beside::Nothing), 1 => Just(Beside::Keep), 1 => Just(Beside::Look)],
            ),
            1..300,
        ),
    ) {
        let mut bars = Bars::new(count);
        let mut kept: Vec<Kept> = Vec::new();
        let mut reader: ThreadReader<()> = bars.model.reader(bars.space).for_thread();
        for (bar, place, beside) in steps {
            let bar = bars.bars[bar.index(bars.bars.len())];
            bars.step(bar, place * PAGE);
            match beside {
                Beside::Nothing => {}
                Beside::Keep => {
                    if kept.len() == 6 {
                        let (view, at) = kept.remove(0);
                        prop_assert!(shows(&view, &at), "a view that was kept has changed");
                    }
                    kept.push((bars.model.view(bars.space), bars.at.clone()));
                }
                Beside::Look => prop_assert!(shows(reader.view(), &bars.at)),
            }
        }
        for (view, at) in &kept {
            prop_assert!(shows(view, at), "a view that was kept has changed");
        }
        prop_assert!(shows(&bars.model.view(bars.space), &bars.at));
        prop_assert_eq!(bars.model.validate(), Ok(()));
    }
}
