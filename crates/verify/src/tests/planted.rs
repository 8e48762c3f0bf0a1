//! Each violation planted into a clean log, and found as what it is.

use super::story::clean;

#[test]
fn a_clean_log_has_no_violation() {
    let report = clean().check();
    let found: Vec<_> = report.violations.iter().map(ToString::to_string).collect();
    assert!(report.is_clean(), "{found:#?}");
    let figures = report.figures;
    assert_eq!((figures.decisions, figures.commands), (20, 14));
    assert_eq!((figures.positions, figures.open_holds), (3, 1));
    assert_eq!(figures.unread, 0);
}
