"""`veilnet demo`: three real nodes in namespaces, a real tunnel, and taps that look for clear text.

```
laptop 10.1.1.2 --- tap +--------+         +---------+
  veilnet up, invite    | router |---------| 2 ms    |--- tap --- 10.1.3.2 relay
server 10.1.2.2 --------+--------+         +---------+              veilnet connect veil:...
  veilnet connect veil:...
```
First act: the two connect directly.  Second act: while a stream runs, the router drops whatever
passes between laptop and server; the relay takes over, and gives back when the way is free again.

`run` plays it in a process of its own (namespaces need a fresh one) and returns a `Result`;
`main` shows it to a person or, as JSON, to a script.
"""

from veilnet.demo.result import Result, Step
from veilnet.demo.run import main, run

__all__ = ["Result", "Step", "main", "run"]
