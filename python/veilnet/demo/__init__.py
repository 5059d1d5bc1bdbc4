"""`veilnet demo`: two real nodes in namespaces, a real tunnel, and a tap that looks for clear text.

```
laptop 192.0.2.1 ============== wire, tapped ============== 192.0.2.2 server
  veilnet up, invite                                          veilnet connect veil:...
  TUN, tapped too: here the text must be seen                 TCP sink
```

`run` plays it in a process of its own (namespaces need a fresh one) and returns a `Result`;
`main` shows it to a person or, as JSON, to a script.
"""

from veilnet.demo.result import Result, Step
from veilnet.demo.run import main, run

__all__ = ["Result", "Step", "main", "run"]
