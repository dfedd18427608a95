//! Kind 6: no key outlives its permission, and no message tells what was meant to be secret.
