//! The kernel's dump of nf_tables as tables, chains, rules and sets of the model.
