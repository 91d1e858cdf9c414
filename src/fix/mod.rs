//! Verdicts become a plan of reversible changes; the plan is applied under a journal (see DESIGN section 5).
