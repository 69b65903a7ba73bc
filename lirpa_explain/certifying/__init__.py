"""From a call to a certificate: what is certified, by which traces, how proven and checked."""
