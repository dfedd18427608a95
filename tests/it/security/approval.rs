//! Kind 4: nobody goes round four eyes, and every administrative function is gated or says why it need not be.
