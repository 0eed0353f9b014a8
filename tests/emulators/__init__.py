"""Emulators of the providers' APIs: real HTTP servers on 127.0.0.1 with state, faults and bills of their own."""
