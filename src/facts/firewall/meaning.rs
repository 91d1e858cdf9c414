//! What the extensions of iptables mean, whichever way they were read: from text (iptables-save) or from their binary form in an
//! nf_tables rule.
