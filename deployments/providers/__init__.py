"""The providers' adapters: they translate, never decide. Plain values in, plain values out."""
