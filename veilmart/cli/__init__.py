"""The one command `veilmart`: a file per group, each thin over the package that does the work.

Homes. Every group works in a home of its own, which `--home` names; none reads another's. Without
`--home` they lie below one folder, `$VEILMART_HOME` or else `~/.local/share/veilmart`:

    init, status     that folder itself
    ca, bus, broker  ca/, bus/, broker/
    merchant         merchants/<id>/   (`--merchant ID` or `$VEILMART_MERCHANT`, unless there is but one)
    customer         customer/         (`--profile DIR` or `$VEILMART_PROFILE` say the same as `--home`)

`veilmart buy` is short for `veilmart customer buy`, and so on for every customer's command.
"""
