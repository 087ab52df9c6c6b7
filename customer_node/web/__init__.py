"""The storefront: a customer's pages, on the customer's own machine.

    home --> catalog --> product --> cart --> review --> order --> library        shop visits, anonymous
    account --> wallet                                                            the account session

One file per step of the visit, in this order; `storefront` puts them together, `desk` is what they share.

Rule 1. No account session is open while a visit is: `modes` stands before every page that would open one
of them, says what that costs in privacy, and offers to wait.

Rule 2. A page that is looked at changes nothing; what is sent is sent once, however often it is pressed.

Rule 3. What lies in the profile is read beside the market; whoever waits for an answer holds up no page.
"""
