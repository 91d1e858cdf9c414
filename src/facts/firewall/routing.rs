//! Links, addresses, routes of all tables and routing rules, and what the kernel decides by them.
