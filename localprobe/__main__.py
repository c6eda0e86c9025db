from localprobe.cli import main

raise SystemExit(main())
