// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Draws the legend: the meaning of colours and marks.

use memory_model::GuestAccess;

use super::canvas::{Area, Canvas, Style};
use super::look::{self, Host, Look};
use super::scale::UNBROKEN;
use super::words::{self, Face};

/// The height of a row of the legend.
const ROW: i32 = 22;

/// The number of explanations in a row.
const COLUMNS: i32 = 6;

const SWATCH: (i32, i32) = (28, 14);

/// The mark before an explanation.
enum Mark {
    Run(Look),
    Private,
    PrivateSide,
    Refused,
    Hidden,
    Disabled,
    Break,
    Fold,
}

/// Draws the legend from `top` on between `left` and `right`. Returns its lower
/// edge.
pub fn draw(canvas: &mut Canvas, (left, right): (i32, i32), top: i32) -> i32 {
    let width = (right - left) / COLUMNS;
    let mut y = top;
    let mut column = 0;
    for (mark, words) in entries() {
        if column == COLUMNS {
            (column, y) = (0, y + ROW);
        }
        let x = left + column * width;
        draw_mark(
            canvas,
            &mark,
            Area {
                x,
                y,
                w: SWATCH.0,
                h: SWATCH.1,
            },
        );
        canvas.text(
            (x + SWATCH.0 + 7, y + 11),
            Style::new(Face::Sans, look::INK),
            &words,
        );
        column += 1;
    }
    y + ROW
}

fn entries() -> Vec<(Mark, String)> {
    let run = |access: GuestAccess| {
        let look = Look::Answers {
            access,
            host: Host::Open,
        };
        (Mark::Run(look), access.to_string())
    };
    vec![
        run(GuestAccess::ReadWrite),
        run(GuestAccess::ReadOnly),
        run(GuestAccess::ReadTrapWrite),
        run(GuestAccess::Trap),
        (Mark::Private, "direct, no host address".into()),
        (Mark::PrivateSide, "has a private side".into()),
        (Mark::Run(Look::Reserved), "reserved".into()),
        (Mark::Refused, "reserved, and why".into()),
        (Mark::Hidden, "hidden".into()),
        (Mark::Disabled, "disabled".into()),
        (Mark::Break, format!("torn: over {}", words::size(UNBROKEN))),
        (Mark::Fold, "folded series".into()),
    ]
}

fn draw_mark(canvas: &mut Canvas, mark: &Mark, area: Area) {
    let Area { x, y, w, h } = area;
    match mark {
        Mark::Run(look) => canvas.filled(area, *look),
        Mark::Private => {
            let access = GuestAccess::ReadWrite;
            canvas.filled(
                area,
                Look::Answers {
                    access,
                    host: Host::Nothing,
                },
            );
            canvas.lock((x + 10, y + 11));
        }
        Mark::PrivateSide => {
            let access = GuestAccess::ReadWrite;
            let host = Host::Shared;
            canvas.filled(area, Look::Answers { access, host });
        }
        Mark::Refused => {
            canvas.filled(area, Look::Reserved);
            canvas.warning((x + 9, y + 12));
        }
        Mark::Hidden => canvas.rect(area, look::HIDDEN_BOX),
        Mark::Disabled => canvas.rect(area, look::DISABLED_BOX),
        Mark::Break => {
            let access = GuestAccess::ReadWrite;
            canvas.filled(
                area,
                Look::Answers {
                    access,
                    host: Host::Open,
                },
            );
            canvas.zigzag((x, x + w), y + h / 2);
        }
        Mark::Fold => canvas.rect(area, look::FOLD_BOX),
    }
}
