"""x"""
import time
from pipeline_tests.old_world import OldWorld


def test_a(old_world: OldWorld) -> None:
    for args in ("cutover status", "cutover status spaces","plan","doctor","verify","sync", "realtime status","track status","backup list","rollback","cutover status","sync","verify","migrate","sync spaces","verify spaces","realtime on","realtime status","quarantine export /tmp/q.csv","anki check", "backup", "restore target --yes","restore source --yes","migrate spaces","redrive spaces"):
        t=time.time()
        ran=old_world(*args.split())
        print("=====",args,ran.code,round(time.time()-t,2))
        print(ran.out); print(ran.err)
    assert 0
